"""``procpool map``"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from time import perf_counter

from ..binary import FuncType, parameter_names
from ..module import read_source
from ..pool import ProcessWasmPool
from ..printable import printable
from .failures import SOME_FAILED, BadRequest, complain, exit_code, told
from .fields import Fields
from .inputs import FileRows, Input, Ranges
from .opening import open_pool, signature
from .options import Commands, counted, export_options, guest_options, running_options
from .output import Csv, JsonLines, Outcome, Output, Text
from .parser import word
from .progress import Lines, Progress
from .reduction import REDUCTIONS, Reduction
from .rows import FORMATS, Reading, open_rows, read_rows
from .speedup import Sample
from .wording import plural, rate

#: How many failures are listed.
MOST_LISTED = 20


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    map_ = commands.add_parser(
        "map",
        parents=[running_options(), guest_options(), export_options()],
        help="call an export once per row of input",
        description="Call an export once per row and print the results in order, one line each.",
    )
    map_.add_argument("input", metavar="FILE", type=word, nargs="?", help="CSV, TSV or JSON lines (default: stdin)")
    map_.add_argument(
        "--range",
        type=counted,
        action="append",
        metavar="A:B[:STEP]",
        help="count instead of reading: A, A+STEP, ... up to and without B; once per parameter",
    )
    by_name = ".tsv is tsv, .jsonl and .ndjson are jsonl, all else is csv"
    map_.add_argument("--input-format", choices=FORMATS, help=f"of FILE (default: by its name: {by_name})")
    map_.add_argument("--header", action="store_true", help="the first line of FILE names the columns")
    map_.add_argument("--delimiter", type=_delimiter, metavar="C", help="what parts columns: a character, or tab")
    map_.add_argument(
        "--columns",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,...",
        help="the columns, or keys of JSON objects, to pass, in the order of the parameters (default: those named as the"
        " parameters, where the module tells their names; else all, in the order of the header or of the first object)",
    )
    output = map_.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON lines: row, args and result or error")
    output.add_argument("--csv", action="store_true", help="print CSV: the arguments and results, with a header")
    output.add_argument("--reduce", choices=REDUCTIONS, help="print one result: sum, least or greatest; nan if any is nan")
    map_.add_argument("--keep-going", action="store_true", help="go on behind rows that fail, list them, and exit with 3")
    map_.add_argument("--speedup", action="store_true", help="run some rows again on one worker, and tell the speed-up")
    map_.set_defaults(run=_map)


def _delimiter(text: str) -> str:
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1 or text in '"\r\n':
        raise argparse.ArgumentTypeError(f"{text!r} is not one character, or tab")
    return text


def _map(options: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        reading = _reading(options)
        file = None if reading is None else stack.enter_context(open_rows(reading.name))
        pool = stack.enter_context(open_pool(options))
        type_ = signature(pool, options.export)
        names = functools.cache(lambda: parameter_names(read_source(options.module), options.export))
        fields = Fields(options.columns, len(type_.params), names)

        def columns() -> Sequence[str]:
            return fields.names or [*map(printable, names() or [f"arg{n}" for n in range(len(type_.params))])]

        output = _output(options, type_, columns)
        keyboard = file is not None and file.isatty()
        if keyboard:
            print("procpool: type the arguments of one call a line; Ctrl-D ends them", file=sys.stderr)
        lines = Lines(Progress(len(options.range[0]) if options.range else None, quiet=keyboard))
        source: Input
        if reading is None or file is None:
            source = Ranges(options.range)
        else:
            rows = read_rows(file, reading, type_, fields)
            ahead = 1 if keyboard else None  # who types a row wants to see what comes of it
            source = FileRows(rows, reading, options.keep_going, lines.flush, ahead)
        run = _Run(options, source, output)
        run.over(pool, lines)
    return run.report()


def _reading(options: argparse.Namespace) -> Reading | None:
    """How to read the file; None if there are ranges."""
    if not options.range:
        given = options.input_format, options.delimiter, options.header, options.columns
        return Reading.checked(options.input or "-", *given)
    for what in ("input", "input_format", "header", "delimiter", "columns"):
        if getattr(options, what):
            flag = "FILE" if what == "input" else f"--{what.replace('_', '-')}"
            raise BadRequest(f"{flag} and --range do not go together: rows are either read or counted")
    Ranges(options.range)  # complains of them before any worker is started
    return None


def _output(options: argparse.Namespace, type_: FuncType, names: Callable[[], Sequence[str]]) -> Output:
    if options.json:
        return JsonLines()
    if options.csv:
        return Csv(names, len(type_.params), len(type_.results), options.keep_going)
    return Reduction(options.reduce, type_.results) if options.reduce else Text()


class _Run:
    """A map under way, and what has become of its rows so far."""

    def __init__(self, options: argparse.Namespace, source: Input, output: Output) -> None:
        self._options = options
        self._source = source
        self._output = output
        self._sample = Sample() if options.speedup else None
        self._done = self._failed = 0
        self._failures: list[str] = []  # the first of them
        self._stopped: BaseException | None = None  # by the first of them
        self._seconds, self._workers = 0.0, 0

    def over(self, pool: ProcessWasmPool, lines: Lines) -> None:
        """Run it to its end, or to the first failure if that ends it."""
        started = perf_counter()
        with lines as advance, contextlib.closing(self._source.outcomes(pool, self._options.export)) as outcomes:
            for outcome in outcomes:
                if not self._take(outcome):
                    break
                advance(1)
                lines.write(self._output.line(outcome))
            if self._stopped is None:
                lines.write(self._output.end())
        self._seconds, self._workers = perf_counter() - started, len(pool.stats().workers)

    def _take(self, outcome: Outcome) -> bool:
        """Count it; whether to go on."""
        if outcome.error is None:
            self._done += 1
            if self._sample is not None:
                self._sample.add(outcome.args)
            return True
        self._failed += 1
        if len(self._failures) < MOST_LISTED:
            self._failures.append(f"{self._source.place(outcome.row)}: {told(outcome.error)}")
        if not self._options.keep_going:
            self._stopped = outcome.error
        return self._stopped is None

    def report(self) -> int:
        """Tell how it went; the exit code."""
        if self._stopped is not None:
            return complain(self._failures[0], exit_code(self._stopped))
        print(
            f"{plural(self._done, 'call')} in {self._seconds:.3f} s on {plural(self._workers, 'worker')},"
            f" {rate(self._done / self._seconds)} calls/s",
            file=sys.stderr,
        )
        if self._sample is not None:
            print(self._sample.told(self._options, self._seconds, self._workers), file=sys.stderr)
        if not self._failed:
            return 0
        listed = [f"\n  {failure.partition(chr(10))[0]}" for failure in self._failures]
        more = self._failed - len(listed)
        unlisted = f"\n  and {more} more; with --json or --csv each is told in its place" * bool(more)
        text = f"{self._failed} of {plural(self._done + self._failed, 'row')} failed:{''.join(listed)}{unlisted}"
        return complain(text, SOME_FAILED)
