"""Host functions in Python, after wazero's example of import functions.

Usage: python docs/examples/age.py YEAR_BORN
"""

import datetime
import sys
from pathlib import Path

from procpool import ProcessWasmPool

MODULE = Path(__file__).parents[2] / "fixtures" / "age.wat"


def log_i32(value):
    print("log_i32 >>", value, flush=True)


def main(year_born, current_year):
    imports = {"env": {"log_i32": log_i32, "current_year": lambda: current_year}}
    with ProcessWasmPool(MODULE, workers=1, imports=imports) as pool:
        print("println >>", pool.call("get_age", year_born), flush=True)
        pool.call("log_age", year_born)

    # The same functions, kept under another module name.
    with ProcessWasmPool(MODULE, workers=1, imports={"host": imports["env"]}, rename_imports={"env": "host"}) as pool:
        assert pool.call("get_age", year_born) == current_year - year_born


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else datetime.date.today().year)
