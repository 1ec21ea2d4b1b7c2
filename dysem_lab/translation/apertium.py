"""Apertium, a rule-based translator: renderings of any sentence with no network and no model."""

import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby, pairwise
from pathlib import Path

import xxhash

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.digests import file_digest
from dysem_lab.errors import InputError, MissingTranslationError, ModelError
from dysem_lab.translation.translate import asked, required_renderings
from dysem_lab.weights import loading

INSTALL = (
    "apt-get install apertium apertium-eng-spa apertium-eng-cat apertium-fra-cat apertium-por-cat "
    "apertium-spa-ita"
)
PACKAGES = ("apertium*", "lttoolbox", "cg3")  # of Debian, that make a rendering
DATA_VARIABLE = "APERTIUM_DATADIR"  # Apertium's own
# Names of the directions in Apertium → the codes of this package. Older pairs have ours already.
_CODES: dict[str, str] = dict(
    re.findall(
        r"(\w+):(\w+)",
        "afr:af arg:an ara:ar bel:be bre:br bul:bg cat:ca cym:cy dan:da deu:de eng:en epo:eo "
        "eus:eu fra:fr glg:gl hin:hi ind:id isl:is ita:it jpn:ja kaz:kk kor:ko mkd:mk mlt:mt "
        "nld:nl nno:nn nob:nb oci:oc pol:pl por:pt ron:ro rus:ru slv:sl spa:es srd:sc swe:sv "
        "tat:tt tur:tr ukr:uk urd:ur zho:zh zlm:ms",
    )
)
_DIRECTION = re.compile(r"([a-z]{2,3})-([a-z]{2,3})")
# What no rule may touch: addresses, which hold words; white space; and the tilde, which wakes
# Apertium's last step.
_BLANK = re.compile(r"((?:https?://|www\.)\S*\w/?|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|[\s~]+)")
_SPECIAL = re.compile(r"[][^$/\\<>{}@]")
_ESCAPE_OR_BRACKET = re.compile(r"\\(.)|[][]", re.DOTALL)
# The tagger by a hidden Markov model; with -gx it is a perceptron, which keeps nothing of a text.
_MARKOV_TAGGER = re.compile(r"apertium-tagger (?!.*-gx)")
# The line of the shell's report that names the program which crashed.
_CRASH = re.compile(
    r"\d+ (Segmentation fault|Bus error|Aborted|Killed)[ |]*(?:\(core dumped\))?[ |]*([\w-]+)"
)
_END = "[]"  # closes each text; a pipeline that loses it broke down on the way


class _BrokenPipeline(Exception):  # noqa: N818 - never leaves this module
    """A program of a pipeline crashed, failed or lost a text; says what it said."""


class ApertiumTranslator:
    """A translator that runs the Apertium that is installed, offline and deterministic.

    With the packages of `INSTALL`, English goes to Spanish and Catalan directly, to French and
    Portuguese through Catalan, and to Italian through Spanish. Any other installed direction is
    used too: a text takes the shortest chain of directions that leads to the language (`routes`),
    and each step adds its errors. Words that Apertium does not know stay as they are, without its
    marks (``*``, ``@``, ``#``); such characters in the text itself are kept, and so are web and
    mail addresses.

    A batch goes through one pipeline, except that the tagger of most pairs is started anew for each
    text: within one process what it has read changes how it reads the unknown words of later texts.
    Hence a rendering does not depend on its batch, and equals that of the command ``apertium -u``
    (which translates the words of addresses, too). 1,000 STS-B sentences took 3 s to Catalan, 9 s
    to Spanish, 16 s to French and 12 s to Portuguese on two busy cores.

    Args:
        timeout: Longest time of one pipeline for one batch, in seconds.

    Attributes:
        name: Identity for the cache: Apertium's version and a digest of all directions with their
            programs, dictionaries and rules, which fix the chains as well.

    Raises:
        ModelError: Apertium is not installed, or its files cannot be read.
    """

    def __init__(self, timeout: float = 600.0) -> None:
        """Look at what is installed; nothing is translated yet."""
        self.timeout = timeout
        with loading("Apertium", remedy=f"Install it anew: {INSTALL}"):
            self._modes = installed_directions()
            said = subprocess.run(["apertium", "-V"], capture_output=True, text=True).stdout.strip()
            self.name = f"{said or 'Apertium'} {_digest(self._modes.values())}"

    @property
    def packages(self) -> dict[str, str]:
        """Apertium's installed packages with their versions; none where no dpkg knows them."""
        columns = "${db:Status-Abbrev}\t${Package}\t${Version}\n"
        ask = ["dpkg-query", "--show", f"--showformat={columns}", *PACKAGES]
        try:
            said = subprocess.run(ask, capture_output=True, text=True).stdout
        except OSError:  # another system
            return {}
        rows = (line.split("\t") for line in said.splitlines())
        return {name: version for status, name, version in rows if status.strip() == "ii"}

    def targets(self, source: str = "en") -> list[str]:
        """Return the languages that can be reached from a language, nearest first."""
        return list(routes(source, self._modes))

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return Apertium's rendering of each text.

        See `dysem_lab.translation.translate.Translator`.

        Raises:
            InputError: No list of texts, or a text with a null character.
            MissingTranslationError: No chain leads to the language, or Apertium breaks down on a
                text (it crashes on a few sentences); names text and language.
            ModelError: It took longer than the timeout.
        """
        texts = asked(texts, source, target)
        for index, text in enumerate(texts):
            if "\0" in text:
                raise InputError(f"text {index} has a null character: {text!r:.200}; take it out")
        reached = routes(source, self._modes)
        if target not in reached:
            raise MissingTranslationError(
                f"Apertium has no way from {source!r} to {target!r}; it reaches "
                f"{', '.join(reached) or 'no language'}. `{INSTALL}` gives es, ca, fr, pt and "
                "it from en; `apt-cache search apertium` lists other pairs"
            )
        route = reached[target]
        modes = [self._modes[step] for step in pairwise(route)]
        renderings = self._rendered(texts, modes, target) if texts else []
        return required_renderings(renderings, texts, target, "Apertium")

    def _rendered(self, texts: list[str], modes: list[Path], target: str) -> list[str]:
        """Return the texts at the end of a chain; halve a batch to find the text that breaks it."""
        renderings = texts
        try:
            for mode in modes:
                streams = [_deformat(text) for text in renderings]
                for command, is_tagger in _stages(mode):
                    streams = self._run(command, streams, each=is_tagger)
                renderings = [_reformat(stream) for stream in streams]
        except _BrokenPipeline as error:
            if len(texts) == 1:
                raise MissingTranslationError(
                    f"Apertium ({mode.stem}) breaks down on {texts[0]!r} and gives no rendering in "
                    f"{target!r}: {error}. Change the text, leave it or that language out, or use "
                    "another translator"
                ) from error
            middle = len(texts) // 2
            first, second = texts[:middle], texts[middle:]
            return self._rendered(first, modes, target) + self._rendered(second, modes, target)
        return renderings

    def _run(self, command: str, streams: list[str], *, each: bool) -> list[str]:
        """Return what a command makes of the texts, in one process or in one for each."""
        if not each:
            return self._through(command, streams)
        with ThreadPoolExecutor() as pool:
            return [part for (part,) in pool.map(lambda s: self._through(command, [s]), streams)]

    def _through(self, command: str, streams: list[str]) -> list[str]:
        """Send texts, each ended by a null character, through a shell pipeline."""
        with subprocess.Popen(
            # The arguments are those of Apertium's own script: $1 says no marks, $2 nothing.
            ["bash", "-o", "pipefail", "-c", command, "apertium", "-n"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                sent = "".join(f"{stream}\0" for stream in streams).encode()
                output, errors = process.communicate(sent, self.timeout)
            except BaseException as error:
                with suppress(ProcessLookupError):  # the shell and all programs of the pipeline
                    os.killpg(process.pid, signal.SIGKILL)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                said = (error.stderr or b"").decode(errors="replace").strip()
                raise ModelError(
                    f"Apertium was not done with {len(streams)} texts after {self.timeout:g} s "
                    f"{said}; give fewer or shorter texts, or a longer timeout"
                ) from error
        parts = output.decode(errors="replace").split("\0")
        received, rest = parts[: len(streams)], parts[len(streams) :]
        whole = len(received) == len(streams) and all(part.endswith(_END) for part in received)
        if process.returncode or not whole or "".join(rest).strip():
            said = errors.decode(errors="replace").strip()
            if crash := _CRASH.search(said):  # else the shell's report of all programs
                said = f"{crash[1]} of {crash[2]}"
            raise _BrokenPipeline(said or f"its pipeline ended with status {process.returncode}")
        return received


def installed_directions() -> dict[tuple[str, str], Path]:
    """Return (source, target) → mode file of each direction that Apertium has.

    Variants such as Brazilian Portuguese are left out. Where two packages have one direction, the
    one with codes of three letters, the newer, is taken.

    Raises:
        ModelError: Apertium is not installed.
    """
    binary = shutil.which("apertium")
    if binary is None:
        raise ModelError(f"Apertium is not installed; install it with: {INSTALL}")
    standard = Path(binary).resolve().parent.parent / "share" / "apertium"
    modes = Path(os.environ.get(DATA_VARIABLE, standard)) / "modes"
    directions = {}
    for file in sorted(modes.glob("*.mode")):
        if named := _DIRECTION.fullmatch(file.stem):
            source, target = named[1], named[2]
            directions[_CODES.get(source, source), _CODES.get(target, target)] = file
    return directions


def routes(source: str, directions: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return language → the shortest chain of languages that leads to it, nearest first.

    Of several shortest chains it is the first in alphabetical order. ``directions`` are the
    (source, target) of each translation that can be made in one step.
    """
    directions = list(directions)
    chains: dict[str, tuple[str, ...]] = {source: (source,)}
    queue = deque([source])
    while queue:
        last = queue.popleft()
        for target in sorted(target for start, target in directions if start == last):
            if target not in chains:
                chains[target] = (*chains[last], target)
                queue.append(target)
    del chains[source]
    return chains


def seen_directions(source: str = "en") -> str:
    """Return, for people, what can be reached from a language, or how to install it."""
    try:
        chains = routes(source, installed_directions())
    except ModelError as error:
        return str(error)
    if not chains:
        return f"no pair from {source}; install some with: {INSTALL}"
    named = []
    for target, chain in chains.items():
        notes = [f"through {', '.join(chain[1:-1])}"] if len(chain) > 2 else []
        notes += [] if target in LANGUAGES else ["English prompts only"]
        named.append(f"{target} ({'; '.join(notes)})" if notes else target)
    return f"{source} to {', '.join(named)}"


def reached(source: str = "en") -> list[str]:
    """Return the languages with prompts of their own that can be reached from one, nearest first.

    There are none where Apertium is not installed.
    """
    try:
        return [code for code in routes(source, installed_directions()) if code in LANGUAGES]
    except ModelError:
        return []


def _digest(modes: Iterable[Path]) -> str:
    """Return a digest of mode files, and of the programs, dictionaries and rules that they name."""
    digest = xxhash.xxh3_128()
    named: dict[str, None] = {}
    for mode in modes:
        pipeline = mode.read_text(encoding="utf-8")
        digest.update(f"{mode.stem} {pipeline}".encode())
        named |= dict.fromkeys(re.findall(r"[^\s'|]+", pipeline))
    for name in ("apertium", "apertium-wblank-mode", *named):
        file = Path(name if "/" in name else shutil.which(name) or name)
        if file.is_file():
            digest.update(f"{name} {file_digest(file)}".encode())
    return digest.hexdigest()[:16]


def _stages(mode: Path) -> list[tuple[str, bool]]:
    """Return the shell commands of a direction, each with whether it is the tagger."""
    try:
        pipeline = subprocess.run(
            ["apertium-wblank-mode", "-z", str(mode)], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        raise ModelError(
            f"this Apertium has no apertium-wblank-mode; it must be 3.8 or later: {INSTALL}"
        ) from None
    except subprocess.CalledProcessError as error:
        raise ModelError(f"Apertium cannot read {mode}: {error.stderr.strip()}") from error
    programs = groupby(pipeline.strip().split(" | "), key=lambda p: bool(_MARKOV_TAGGER.search(p)))
    return [(" | ".join(group), is_tagger) for is_tagger, group in programs]


def _deformat(text: str) -> str:
    """Return a text as Apertium's stream format has it, with the full stop that its own adds."""
    pieces = [_SPECIAL.sub(r"\\\g<0>", piece) for piece in _BLANK.split(text)]
    pieces[1::2] = [piece if piece == " " else f"[{piece}]" for piece in pieces[1::2]]
    return "".join(pieces) + "." + _END


def _reformat(stream: str) -> str:
    """Return the text of a stream that `_deformat` began."""
    stream = stream.removesuffix(_END).removesuffix(".")
    return _ESCAPE_OR_BRACKET.sub(r"\1", stream)
