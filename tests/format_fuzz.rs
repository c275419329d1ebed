//! File name templates against CPython's own `str.format`: tests/python/format_cases.py makes random ones.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod python;

use ckpt::policy::template::{Buffer, Template, Value};
use serde_json::Value as Json;

const COUNT: usize = 20_000;

/// Integers are decimal text, floats the 16 hex digits of their bits.
fn value(name: &str, text: &str) -> Value {
    match name {
        "i" | "w" | "p" => Value::Int(text.parse().unwrap()),
        _ => Value::Float(f64::from_bits(u64::from_str_radix(text, 16).unwrap())),
    }
}

#[test]
fn templates_agree_with_cpython() {
    let seed = python::seed();
    let lines = python::lines("format_cases.py", &[&seed, &COUNT.to_string()]);
    let mut buffer = Buffer::default();
    let (mut cases, mut errors, mut different) = (0, 0, 0);
    for line in &lines {
        let case: Json = serde_json::from_str(line).unwrap();
        let source = case["template"].as_str().unwrap();
        let lookup = |name: &str| case["values"].get(name).map(|text| value(name, text.as_str().unwrap()));
        let expected = case["result"].as_str();
        let ours = match Template::parse(source, &["i", "w", "p"]) {
            Err(refused) => Err(refused.message().to_owned()),
            Ok(template) => {
                let path = template.render(&lookup, &mut buffer).map(str::to_owned);
                assert_eq!(template.check(&lookup, &mut buffer).is_ok(), path.is_ok(), "{source}");
                if let Ok(path) = &path {
                    assert!(template.matches(path), "{source} does not match what it wrote: {path}");
                }
                path.map_err(|failure| format!("{failure:?}"))
            }
        };
        cases += 1;
        errors += usize::from(expected.is_none());
        if ours.as_deref().ok() != expected {
            different += 1;
            eprintln!("{source}\n  values {}\n  CPython {expected:?}\n  ours    {ours:?}", case["values"]);
        }
    }
    println!("{cases} templates, {errors} of them errors, seed {seed}: {different} differences");
    assert_eq!((cases, different), (COUNT, 0));
}
