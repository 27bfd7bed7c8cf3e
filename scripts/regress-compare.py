"""Compares what psql saw on plain Postgres with what it saw through Ripen, file by file.

Usage: regress-compare.py PLAIN OTHER EXCEPTIONS MODE

An exception is a line `test mode regex`: lines that the regex matches whole are left out of both files before they are compared. `*` is every test or every mode.
The regex begins after one space. Each stands below a comment that gives its reason. One that matches nothing is told, so that none outlives its reason.
"""

import difflib
import pathlib
import re
import sys


def exceptions(path, mode):
    rules = []
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            test, where, regex = line.split(" ", 2)
            if where in ("*", mode):
                rules.append((test, re.compile(regex)))
    return rules


def shown(path, rules, used):
    lines = path.read_text(errors="surrogateescape").splitlines() if path.exists() else ["(the test did not run)"]
    kept = []
    for line in lines:
        rule = next((rule for rule in rules if rule[0] in ("*", path.stem) and rule[1].fullmatch(line)), None)
        if rule is None:
            kept.append(line)
        else:
            used.add(rule)
    return kept


def main(plain, other, exception_file, mode):
    plain, other = pathlib.Path(plain), pathlib.Path(other)
    rules, used, differing = exceptions(pathlib.Path(exception_file), mode), set(), []
    names = sorted({path.name for folder in (plain, other) for path in folder.glob("*.out")})
    with open(other.parent / "differences", "w", errors="surrogateescape") as out:
        for name in names:
            diff = list(difflib.unified_diff(shown(plain / name, rules, used), shown(other / name, rules, used), f"plain/{name}", f"{mode}/{name}", lineterm=""))
            if diff:
                differing.append(name)
                changed = sum(line[0] in "+-" for line in diff) - 2
                print(f"regress: {mode}: {name.removesuffix('.out')} differs in {changed} lines")
                out.write("\n".join(diff) + "\n")
    for test, regex in rules:
        if (test, regex) not in used:
            print(f"regress: {mode}: the exception `{test} {regex.pattern}` matches nothing")
    print(f"regress: {mode}: {len(names) - len(differing)} of {len(names)} tests the same, {len(differing)} differ" + (f": {other.parent}/differences" if differing else ""))
    return 1 if differing or not names else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
