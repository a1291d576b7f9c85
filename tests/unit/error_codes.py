#!/usr/bin/env python3
"""Every code in the sources stands in the catalogue, every code of the catalogue is used, and none stands twice.

Usage: error_codes.py SOURCE_DIR. Exit 1 with one line for each trouble.
"""
import pathlib
import re
import sys

CODE = re.compile(r'"(SS-[A-Z0-9]+-[^"\s]*)"')
FORM = re.compile(r"SS-[A-Z]+-[0-9]{4}")
ENTRY = re.compile(r'X\(\s*"([^"]*)"')
FOLDERS = ("common", "proto", "spool", "agents", "applier", "cli", "include")


def catalogue(root):
    codes, troubles = {}, []
    included = set(re.findall(r'#include "errors/(\w+)\.def"', (root / "common/errors.def").read_text()))
    for path in sorted((root / "common/errors").glob("*.def")):
        if path.stem not in included:
            troubles.append(f"{path}: common/errors.def does not include it")
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        for code in ENTRY.findall(text):
            area = f"SS-{path.stem.upper()}-"
            if not FORM.fullmatch(code):
                troubles.append(f"{path}: {code} is not of the form SS-AREA-NNNN")
            elif not code.startswith(area):
                troubles.append(f"{path}: {code} does not belong here, but to another area than {area}")
            if code in codes:
                troubles.append(f"{path}: {code} stands in {codes[code]} already")
            codes[code] = path
    return codes, troubles


def main():
    root = pathlib.Path(sys.argv[1])
    codes, troubles = catalogue(root)
    used = set()
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.[ch]")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                for code in CODE.findall(line):
                    if path.parent.name == "sidespool" and not FORM.fullmatch(code):
                        continue  # a header's comment may show a code's form
                    used.add(code)
                    if code not in codes:
                        troubles.append(f"{path}:{number}: {code} is not in the catalogue")
    for code in sorted(set(codes) - used):
        troubles.append(f"{codes[code]}: {code} is used nowhere; remove it or use it")
    for trouble in troubles:
        print(trouble)
    print(f"{len(codes)} codes, {len(troubles)} troubles")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
