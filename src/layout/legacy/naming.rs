//! How Keras names what it saves: the class in snake case, and a number where there are several of one class.

use std::collections::HashMap;

use crate::error::Result;
use crate::memory;

/// The class as Keras has it in paths: `DepthwiseConv2D` is `depthwise_conv2d`, `PReLU` is `p_re_lu`.
pub(super) fn snake_case(class: &str) -> String {
    let class = match class {
        // The public name of a class whose own is another.
        "GroupQueryAttention" => "GroupedQueryAttention",
        other => other,
    };
    let word = |c: &char| c.is_alphanumeric() || *c == '_';
    let capitals = split_words(class.chars().filter(word).collect());
    let mut out = String::with_capacity(capitals.len() + 8);
    let mut before = ' ';
    for c in capitals {
        if before.is_ascii_lowercase() && c.is_ascii_uppercase() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
        before = c;
    }
    out
}

/// Puts `_` before each capital with small letters after it, unless it is the first letter, or directly behind such
/// a word: there the word before ends with a small letter anyway.
fn split_words(letters: Vec<char>) -> Vec<char> {
    let mut out = Vec::with_capacity(letters.len() + 8);
    let mut rest = letters.as_slice();
    while let [first, tail @ ..] = rest {
        out.push(*first);
        rest = tail;
        if let [capital, small, ..] = rest
            && capital.is_ascii_uppercase()
            && small.is_ascii_lowercase()
        {
            let len = 1 + rest.iter().skip(1).take_while(|c| c.is_ascii_lowercase()).count();
            let (word, tail) = rest.split_at(len);
            out.push('_');
            out.extend(word);
            rest = tail;
        }
    }
    out
}

/// The names in one container: `dense`, `dense_1`, `dense_2`, ...
#[derive(Default)]
pub(super) struct Counters(HashMap<String, usize>);

impl Counters {
    /// The name of the next object of a class.
    pub(super) fn next(&mut self, class: &str) -> Result<String> {
        let name = snake_case(class);
        match self.0.get_mut(&name) {
            Some(last) => {
                *last += 1;
                Ok(format!("{name}_{last}"))
            }
            None => {
                memory::insert(&mut self.0, name.clone(), 0)?;
                Ok(name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named_as_keras_names_them() {
        for (class, name) in [
            ("Dense", "dense"),
            ("DepthwiseConv2D", "depthwise_conv2d"),
            ("PReLU", "p_re_lu"),
            ("ReLU", "re_lu"),
            ("LSTM", "lstm"),
            ("LSTMCell", "lstm_cell"),
            ("ConvLSTM2D", "conv_lstm2d"),
            ("SimpleRNN", "simple_rnn"),
            ("RMSNormalization", "rms_normalization"),
            ("GlobalAveragePooling2D", "global_average_pooling2d"),
            ("Conv2DTranspose", "conv2d_transpose"),
            ("GroupQueryAttention", "grouped_query_attention"),
            ("STFTSpectrogram", "stft_spectrogram"),
            ("ELU", "elu"),
            ("MyHTTPLayer", "my_http_layer"),
            ("A", "a"),
            ("Größe", "größe"),
            ("", ""),
        ] {
            assert_eq!(snake_case(class), name);
        }
    }

    #[test]
    fn counters_count_from_the_second_on() {
        let mut counters = Counters::default();
        let names: Vec<_> =
            ["Dense", "ReLU", "Dense", "Dense"].map(|class| counters.next(class).unwrap()).into();
        assert_eq!(names, ["dense", "re_lu", "dense_1", "dense_2"]);
    }
}
