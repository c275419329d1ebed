use super::*;

fn parse(source: &str) -> Result<Template> {
    Template::parse(source, &["epoch", "batch"])
}

fn refusal(source: &str) -> String {
    let error = parse(source).expect_err(source);
    assert_eq!(error.status(), Status::Template);
    error.message().to_owned()
}

fn render(source: &str, values: &[(&str, Value)]) -> std::result::Result<String, String> {
    let lookup = |name: &str| values.iter().find(|(n, _)| *n == name).map(|&(_, v)| v);
    let template = parse(source).map_err(|e| e.message().to_owned())?;
    let mut buffer = Buffer::default();
    match template.render(&lookup, &mut buffer) {
        Ok(path) => Ok(path.to_owned()),
        Err(Failure::Missing(name)) => Err(name),
        Err(Failure::Value(error)) => Err(error.message().to_owned()),
    }
}

fn float(spec: &str, value: f64) -> String {
    render(&format!("{{x{spec}}}"), &[("x", Value::Float(value))]).expect(spec)
}

fn int(spec: &str, value: u128) -> String {
    render(&format!("{{epoch{spec}}}"), &[("epoch", Value::Int(value))]).expect(spec)
}

#[test]
fn a_refusal_shows_where() {
    assert_eq!(
        refusal("w-{epoch:02q}.keras"),
        "filepath template 'w-{epoch:02q}.keras', at character 9 (':02q'): \
         Unknown format code 'q' for object of type 'int'"
    );
    assert_eq!(
        refusal("größe-{epoch.keras"),
        "filepath template 'größe-{epoch.keras', at character 7 ('{epoch.'): attribute and index access \
         ('.' and '[' in a field) is not possible: values are numbers"
    );
    assert_eq!(
        refusal("{val_loss!x}.keras"),
        "filepath template '{val_loss!x}.keras', at character 10 ('!x'): Unknown conversion specifier 'x': \
         expected 'r', 's' or 'a'"
    );
    assert!(refusal("a}.keras").contains("at character 2 ('}'): Single '}' encountered"));
}

#[test]
fn what_can_never_work_is_refused() {
    let syntax = [
        "{",
        "}",
        "a{",
        "{epoch",
        "{epoch:",
        "{epoch!",
        "{epoch!r",
        "{epoch!rr}",
        "{a{b}}",
        "{epoch:{batch}",
    ];
    let names =
        ["{}", "{:d}", "{0}", "{12}", "{٣}", "{!r}", "{epoch.real}", "{epoch[0]}", "{epoch:{}}", "{x:{0}}"];
    let nested = ["{epoch:{batch:{x}}}", "{epoch:{batch}q}", "{x:{batch}d}", "{x!r:{batch}d}"];
    let ints =
        ["{epoch:q}", "{epoch:s}", "{epoch:.2d}", "{epoch:zd}", "{epoch:+c}", "{epoch:#c}", "{epoch:,n}"];
    let more =
        ["{epoch:,x}", "{epoch:,_d}", "{epoch:_,d}", "{epoch:dd}", "{epoch:.d}", "{epoch:_c}", "{epoch:5 d}"];
    let floats = ["{x:d}", "{x:x}", "{x:c}", "{x:s}", "{x:,n}", "{x:_n}", "{x:.f}", "{x:.2ff}"];
    let texts = [
        "{x!s:d}",
        "{x!r:.2f}",
        "{x!a:+}",
        "{x!s: }",
        "{x!s:#}",
        "{x!s:=5}",
        "{x!s:,}",
        "{x!s:z}",
        "{epoch!s:d}",
    ];
    let sizes =
        ["{x:65536}", "{x:.65536f}", "{x:#.65536g}", "{x:.2147483648g}", "{x!s:.99999999999999999999}"];
    let all = [&syntax[..], &names, &nested, &ints, &more, &floats, &texts, &sizes, &["a\0b"]];
    for source in all.concat() {
        refusal(source);
    }
    refusal(&"a".repeat(MAX_PATH + 1));
}

#[test]
fn what_some_logs_make_possible_is_accepted() {
    let by_type =
        ["{epoch:.2}", "{epoch:z}", "{batch:n}", "{epoch:{batch}d}", "{x:{w}f}", "{x:{w:.0f}.{p:.0f}f}"];
    let odd = ["{a b/c-d}", "{größe!s:é^9}", "{x:}", "{{}}", "{x!s:.9999999999}", "{x:.99999g}", ""];
    for source in by_type.iter().chain(&odd) {
        parse(source).unwrap();
    }
    assert_eq!(parse("{epoch:.2}-{x:.2}").unwrap().doubts().len(), 1);
    assert!(parse("{epoch:02d}-{batch:e}-{x:.2}").unwrap().doubts().is_empty());
}

#[test]
fn floats_are_rounded_from_their_exact_value() {
    assert_eq!(float(":.2f", 0.125), "0.12");
    assert_eq!(float(":.2f", 0.375), "0.38");
    assert_eq!(float(":.2f", 2.675), "2.67");
    assert_eq!(float(":.0f", 2.5), "2");
    assert_eq!(float(":#.0f", 2.5), "2.");
    assert_eq!(float(":.30f", 0.1), "0.100000000000000005551115123126");
    assert_eq!(float(":.0e", 5e-324), "5e-324");
    assert_eq!(float(":g", 1e-5), "1e-05");
    assert_eq!(float(":g", 0.0001), "0.0001");
    assert_eq!(float(":#g", 100000.0), "100000.");
    assert_eq!(float(":.1%", 0.12345), "12.3%");
    assert_eq!(float(":E", f64::INFINITY), "INF");
    assert_eq!(float(":%", -f64::NAN), "nan%");
}

#[test]
fn repr_is_the_shortest_and_nearest() {
    assert_eq!(float("", 1e16), "1e+16");
    assert_eq!(float("", 123456789012345680.0), "1.2345678901234568e+17");
    assert_eq!(float("", 2e15), "2000000000000000.0");
    assert_eq!(float("", 0.0001), "0.0001");
    assert_eq!(float("!r", 0.00001), "1e-05");
    assert_eq!(float("", -0.0), "-0.0");
    // Two shortest digit strings are equally near: the even one.
    assert_eq!(float("", f64::from_bits(0xbef2_4000_0000_0000)), "-1.7404556274414062e-05");
    assert_eq!(float("", f64::from_bits(0xbe60_0000_0000_0000)), "-2.9802322387695312e-08");
    // One side of a power of two is nearer than the other: the nearest of 16 digits would not read back.
    assert_eq!(float("", f64::powi(2.0, -1022)), "2.2250738585072014e-308");
    assert_eq!(float(":.1", 12.0), "1e+01");
    assert_eq!(float(":.3", 12.0), "12.0");
}

#[test]
fn the_longest_digits_are_exact() {
    let tiny = float(":.1100f", 5e-324);
    assert!(tiny.starts_with("0.000") && tiny.trim_end_matches('0').ends_with("533447265625"), "{tiny}");
    assert_eq!(tiny.len(), 1102);
    let smallest_normal_below = f64::from_bits(0x000f_ffff_ffff_ffff);
    // 767 significant digits, more than any other float has.
    let digits = float(":.2000g", smallest_normal_below);
    assert_eq!(digits.len(), 1 + 1 + 766 + "e-308".len());
    assert_eq!(float(":.65000e", 1.5).len(), 2 + 65000 + 4);
}

#[test]
fn layout_is_cpythons() {
    assert_eq!(float(":010.3f", -1.5), "-00001.500");
    assert_eq!(float(":,.2f", 1234567.891), "1,234,567.89");
    assert_eq!(float(":08,.0f", 1.0), "0,000,001");
    assert_eq!(float(":07,.0f", 1.0), "000,001");
    assert_eq!(float(":é^9.1f", 1.5), "ééé1.5ééé");
    assert_eq!(float(":+z.1f", -0.01), "+0.0");
    assert_eq!(float(":z.1f", -0.06), "-0.1");
    assert_eq!(float(":z", f64::NEG_INFINITY), "-inf");
    assert_eq!(float(":010", f64::NAN), "0000000nan");
    assert_eq!(float("!s:09.3", 2.675), "2.6000000");
    assert_eq!(int(":#010x", 255), "0x000000ff");
    assert_eq!(int(":#X", 255), "0XFF");
    assert_eq!(int(":_b", 0b1_0000_0001), "1_0000_0001");
    assert_eq!(int(":*=+8,d", 1234), "+**1,234");
    assert_eq!(int(":c", 0x1F600), "😀");
    assert_eq!(int(":^5c", 0xE9), "  é  ");
    assert_eq!(int(":e", u128::from(u64::MAX) + 1), "1.844674e+19");
    assert_eq!(int("", u128::from(u64::MAX) + 1), "18446744073709551616");
}

#[test]
fn failures_at_run_time_say_what_failed() {
    assert_eq!(render("{a}{val_loss}", &[("a", Value::Float(0.0))]), Err("val_loss".to_owned()));
    let narrow = render("{epoch:{w}d}", &[("epoch", Value::Int(1)), ("w", Value::Float(10.0))]).unwrap_err();
    assert!(
        narrow.ends_with("('{epoch:{w}d}'): Precision not allowed in integer format specifier"),
        "{narrow}"
    );
    assert!(render("{epoch:c}", &[("epoch", Value::Int(0xD800))]).unwrap_err().contains("55296"));
    let long = "{x:65000}{x:65000}";
    assert!(render(long, &[("x", Value::Float(1.0))]).unwrap_err().contains("more than 65535 bytes"));
}

#[test]
fn fixed_dir_ends_before_the_first_field() {
    let cases = [
        ("a/b/w-{epoch}.keras", "a/b/", "w-{epoch}.keras"),
        ("a/{epoch}/w.keras", "a/", "{epoch}/w.keras"),
        ("{{a}}/b{epoch}/c", "{a}/", "b{epoch}/c"),
        ("a//b-{epoch}", "a//", "b-{epoch}"),
        ("/{epoch}", "/", "{epoch}"),
        ("w.keras", "", "w.keras"),
        ("{epoch}/w.keras", "", "{epoch}/w.keras"),
        ("a/b.keras", "a/", "b.keras"),
        ("a/{epoch:/>3}", "a/", "{epoch:/>3}"),
    ];
    for (source, dir, below) in cases {
        let template = parse(source).unwrap();
        assert_eq!((template.fixed_dir(), template.below_fixed_dir()), (dir, below), "{source}");
    }
    assert_eq!(parse("{epoch:{w}d}-{x}").unwrap().names(), ["epoch", "w", "x"]);
}

#[test]
fn matches_takes_what_it_may_have_written_and_little_else() {
    let template = parse("d/w-{epoch:02d}-{val_loss:.2f}.keras").unwrap();
    for path in ["d/w-01-0.25.keras", "d/w-123--1.00.keras", "d/w-01-nan.keras"] {
        assert!(template.matches(path), "{path}");
    }
    for path in [
        "d/w-1-0.25.keras",
        "d/w-best-0.25.keras",
        "d/w-01-0.25.keras.bak",
        "w-01-0.25.keras",
        "d/w-01/0.25.keras",
        "",
    ] {
        assert!(!template.matches(path), "{path}");
    }
    assert!(parse("{{x}}{epoch:é>4}").unwrap().matches("{x}ééé1"));
    assert!(!parse("{epoch}").unwrap().matches("best"));
    assert!(parse("{epoch:c}").unwrap().matches("/"));
    assert!(parse("plain.keras").unwrap().matches("plain.keras"));
    let template = parse("run/{epoch:02d}-{val/acc:.2f}/b/{loss:.1f}.keras").unwrap();
    for prefix in ["", "ru", "run/", "run/07", "run/07-0.25/", "run/07-0.25/b/", "run/07-0.25/b/0.5.k"] {
        assert!(template.begins(prefix), "{prefix}");
    }
    for prefix in ["x", "run//", "run/07/", "run/x7-0.25/", "run/07-0.25/c/", "run/07-0.25/b/b/", "runs/"] {
        assert!(!template.begins(prefix), "{prefix}");
    }
    assert_eq!(template.constant(), None);
    assert_eq!(parse("{{x}}.keras").unwrap().constant().as_deref(), Some("{x}.keras"));
    // Fields side by side: not exponential.
    let many = parse(&"{x}".repeat(200)).unwrap();
    assert!(!many.matches(&format!("{}!", "1".repeat(1000))));
}
