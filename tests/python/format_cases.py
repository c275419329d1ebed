"""Random templates for str.format, with what CPython makes of them, as JSON lines.

usage: format_cases.py SEED COUNT > cases.jsonl
A line: the template; the values by name, floats as the 16 hex digits of their bits and integers as decimal text;
and the result, or null where CPython raises. Attribute and index access is left out: ours refuses it.
"""
import json, random, string, struct, sys

INTS = ["i", "w", "p"]                                    # a value, a width, a precision
FLOATS = ["x", "val/acc", "top-5 acc", "größe", "y_1"]
FILLS = list("*0 _-+.x9{}:!é→😀'\"#<>=^,z%n") + [None] * 12
EDGES = [0.0, -0.0, 0.5, 1.5, 2.5, 0.125, 0.375, 2.675, 1.0, -1.0, 10.0, 1e15, 1e16, 1e17, 123456789012345680.0, 9.5,
         99.5, 999999.5, 9999995.0, 0.0001, 0.00001, 0.00009999995, 5e-324, 2.2250738585072014e-308,
         2.225073858507201e-308, 1.7976931348623157e308, 1e22, 1e23, 9007199254740993.0, 0.1, 0.3, 1 / 3, 2 / 3,
         5.684341886080802e-14, 4.35, 1e-7, 0.05, 0.015, float("nan"), -float("nan"), float("inf"), -float("inf")]
INT_EDGES = [0, 1, 9, 10, 47, 99, 255, 999, 1000, 1023, 12345, 65535, 65536, 999999, 1000000, 0x10FFFF, 0x110000,
             2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]


def a_float(rng):
    k = rng.random()
    if k < .3:
        return rng.choice(EDGES)
    if k < .5:
        return struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64)))[0]
    if k < .6:                                            # ties: few bits behind the point
        return rng.choice([-1, 1]) * rng.getrandbits(rng.randint(1, 30)) / 2 ** rng.randint(0, 40)
    if k < .7:
        return rng.choice([-1, 1]) * 2.0 ** rng.randint(-1074, 1023)
    if k < .8:
        return float("%de%d" % (rng.randint(1, 9999), rng.randint(-30, 30)))
    return rng.uniform(-2, 2) * 10.0 ** rng.randint(-6, 9)


def an_int(rng):
    return rng.choice(INT_EDGES) if rng.random() < .4 else rng.getrandbits(rng.randint(1, 64))


def number(rng, most):
    n = str(rng.choice([0, 1, 2, 3, 5, 8, 10, 12, 17, 20, rng.randint(0, most)]))
    return "".join(chr(0x660 + int(c)) for c in n) if rng.random() < .01 else n


def a_spec(rng, kind, nested):
    spec = ""
    if rng.random() < .5:
        spec += (rng.choice(FILLS) or "") + rng.choice("<>=^" if kind != "s" or rng.random() < .2 else "<>^")
    rare = .5 if kind != "s" else .03
    spec += rng.choice("+- ") if rng.random() < rare * .6 else ""
    spec += "z" if rng.random() < (.15 if kind == "f" else .02) else ""
    spec += "#" if rng.random() < rare * .5 else ""
    spec += "0" if rng.random() < .25 else ""
    if rng.random() < .6:
        spec += "{w}" if nested and rng.random() < .2 else number(rng, 80)
    spec += rng.choice(",_") if rng.random() < rare * .6 else ""
    if rng.random() < {"f": .6, "i": .1, "s": .4}[kind]:
        spec += "." + ("{p}" if nested and rng.random() < .2 else number(rng, 400))
    usual = {"f": "eEfFgGn%", "i": "bcdnoxXeEfFgG%", "s": "s"}[kind]
    if rng.random() < .85:
        spec += rng.choice(usual if rng.random() < .95 else "bcdeEfFgGnosxX%qé")
    if nested and rng.random() < .02:
        spec += rng.choice(["{{", "}}", "{w:d}", "{w!s:>2}", "{p:{w}}"])
    return spec


def a_field(rng):
    name = rng.choice(INTS[:1] * 4 + FLOATS)
    conversion = "!" + rng.choice("rsa") if rng.random() < .15 else ""
    conversion = rng.choice(["!q", "!", "!rr"]) if rng.random() < .005 else conversion
    kind = "s" if conversion else "i" if name in INTS else "f"
    spec = a_spec(rng, kind, nested=rng.random() < .5)
    return "{%s%s%s}" % (name, conversion, ":" + spec if spec or rng.random() < .1 else "")


def a_template(rng):
    text = ""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        text += rng.choice(["", "", "w-", "a/b", "é", "{{", "}}", "{{x}}", " "]) + a_field(rng)
    if rng.random() < .1:                                 # break it somewhere
        at = rng.randint(0, len(text))
        text = text[:at] + rng.choice(["{", "}", "!", ":", "0", "x", "", ","]) + text[at + rng.randint(0, 1):]
    return text


def subscripted(template):
    """Does a field hold a '.' or a '['? What cannot be parsed is an error in any case."""
    try:
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        return "[" in template
    return any("." in name or "[" in name or subscripted(spec) for name, spec in fields)


def one(rng):
    while True:
        template = a_template(rng)
        values = {"i": an_int(rng), "w": rng.randint(0, 40), "p": rng.choice([0, 1, 3, 17, rng.randint(0, 400)])}
        values.update((name, a_float(rng)) for name in FLOATS)
        if rng.random() < .02:
            del values[rng.choice(list(values))]
        if subscripted(template):
            continue
        try:
            result = template.format(**values)
            result.encode()                               # a lone surrogate is no path
        except (ValueError, KeyError, IndexError, OverflowError):
            result = None
        if result is None or len(result) < 60000:
            coded = {k: str(v) if isinstance(v, int) else struct.pack(">d", v).hex() for k, v in values.items()}
            return {"template": template, "values": coded, "result": result}


def main():
    rng = random.Random(int(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        print(json.dumps(one(rng)))


if __name__ == "__main__":
    main()
