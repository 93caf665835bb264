"""What one exchange asks of one container: how it is, whether its port answers, and golden translations.

The script runs on the GPU host as root and needs sh, curl and awk there. It is one attempt; the caller
repeats it. Every part of its answer is a line `fleet NAME WORDS SIZE` and then SIZE bytes, read from the
front: nothing that a container says can look like a part. What is sent to the container travels in files.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

import msgspec

from fleet.docker import api
from fleet.docker.answers import log_text
from fleet.docker.probe import SOCKET
from fleet.model.decode import from_json
from fleet.model.facts import Answer, Facts, Probe

Profile = Literal["gradio", "openai", "http"]

PAGES: Mapping[Profile, str] = {"gradio": "/config", "openai": "/v1/models", "http": "/"}
"""The page that shows that a service of this kind is up."""

LOG_LINES = 40
_ENGINE_SECONDS = 10
_PAGE_SECONDS = 5
_PROBE_SECONDS = 30
_TRIES = 10
_TRY_SECONDS = 0.1
_FILE_BLOCKS = 20480
"""The most that is taken of one answer, in blocks of 512 bytes: an endless one would fill /run."""


@dataclass(frozen=True)
class Target:
    """A container and where it is published. `socket` is the Docker Engine's."""

    container: str
    port: int
    address: str = "127.0.0.1"
    profile: Profile = "gradio"
    socket: str = SOCKET


@dataclass(frozen=True)
class Call:
    """One translation to ask for. `deadline` in seconds; `model` is for servers of OpenAI's kind only."""

    inputs: tuple[str, ...]
    api: str = "translate"
    deadline: float = 60.0
    model: str = ""


@dataclass(frozen=True)
class State:
    """A container's state in the engine's words (created, running, restarting, exited, ...)."""

    id: str
    status: str
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    restarts: int = 0


@dataclass(frozen=True)
class Page:
    """What the port said: the HTTP status, 0 where there was no answer and `trouble` tells why."""

    status: int
    body: bytes = b""
    trouble: str = ""


@dataclass(frozen=True)
class Reply:
    """What came of a translation, after how many seconds.

    `text` is the answer. Where there is none `trouble` says why; `final` is true where asking again will
    hardly help, because the service itself refused or failed, and false where it may be still loading.
    """

    seconds: float
    text: str | None = None
    trouble: str = ""
    final: bool = False


@dataclass(frozen=True)
class Seen:
    """Everything one exchange showed. `engine` is the engine's HTTP status: 0 without an answer, 404
    without such a container. `whole` is false where the answer broke off."""

    engine: int = 0
    state: State | None = None
    page: Page = Page(0)
    replies: tuple[Reply, ...] = ()
    facts: Facts = field(default_factory=Facts)
    log: str = ""
    whole: bool = False


def script(
    target: Target,
    calls: Sequence[Call] = (),
    probes: Sequence[Probe] = (),
    *,
    log: bool = False,
    wait: bool = False,
) -> tuple[str, float]:
    """The script, and the seconds it may take.

    `probes` are asked on the host in the same exchange; `log` asks for the container's last lines. With
    `wait` a port that nobody listens on is tried again, on the host, for about a second. After a call
    without an answer in time the others are not made.
    """
    engine = f"http://d/containers/{quote(target.container, safe='')}"
    host = f"[{target.address}]" if ":" in target.address else target.address
    lines = [
        _FUNCTIONS,
        f"socket={shlex.quote(target.socket)}",
        f"base={shlex.quote(f'http://{host}:{target.port}')}",
        f"tries={_TRIES if wait else 1}",
        f"page {PAGES[target.profile]}",
    ]
    ask = "post" if target.profile == "openai" else "call"
    for number, call in enumerate(calls):
        where = "/v1/chat/completions" if ask == "post" else f"/call/{quote(call.api, safe='')}"
        # The body is one line of ASCII that begins with a brace, so it cannot end the here-document.
        lines += [f"cat > \"$work/{number}\" <<'END'", _body(target.profile, call), "END"]
        lines.append(f"{ask} {number} {shlex.quote(where)} {max(call.deadline, 0.1):.3f}")
    for number, probe in enumerate(probes):
        lines += [f'( {probe.script}\n) > "$work/body" 2>/dev/null', f'part probe "{number} $?"']
    # The state comes last, so that it is true of everything before.
    lines.append(f"engine container {shlex.quote(engine + '/json')}")
    if log:
        lines.append(f"engine log {shlex.quote(f'{engine}/logs?stdout=1&stderr=1&tail={LOG_LINES}')}")
    lines.append("echo 'fleet end 0'")
    seconds = (
        _TRIES * _TRY_SECONDS + _PAGE_SECONDS + 2.0 * _ENGINE_SECONDS + (_PROBE_SECONDS if probes else 0)
    )
    return "\n".join(lines) + "\n", seconds + sum(call.deadline + 1 for call in calls) + 10


def parse(out: bytes, probes: Sequence[Probe] = ()) -> Seen:
    """Read what the script printed; `probes` as given to it. What is missing is as if nobody had answered."""
    engine, state, page, log, whole = 0, None, Page(0), "", False
    replies: dict[int, Reply] = {}
    facts: dict[str, Answer] = {}
    for name, words, body in _parts(out):
        match name, words:
            case "page", [rc, code, _]:
                page = Page(_int(code), body, _curl(rc))
            case ("call" | "stream" | "post") as kind, [number, rc, code, seconds, before]:
                spent = _float(seconds) + _float(before)
                replies[_int(number)] = _reply(kind, _int(rc), _int(code), spent, body)
            case "probe", [number, rc]:
                facts[probes[_int(number)].key] = Answer(_int(rc), body)
            case "container", [_, code, _]:
                engine, state = _int(code), _state(body)
            case "log", [_, "200", _]:
                log = log_text(body)
            case "end", _:
                whole = True
    ordered = tuple(replies[number] for number in sorted(replies))
    return Seen(engine, state if engine == 200 else None, page, ordered, Facts(facts), log, whole)


_FUNCTIONS = f"""\
umask 077
export LC_ALL=C
work=$(mktemp -d -p /run fleet.XXXXXX 2>/dev/null || mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# Set once a translation had no answer in time: those after it would only wait as long again.
late=
part() {{ printf 'fleet %s %s %d\\n' "$1" "$2" "$(wc -c < "$work/body")"; cat "$work/body"; echo; }}
get() {{
  limit=$1; shift
  : > "$work/body"
  said=$(trap '' XFSZ; ulimit -f {_FILE_BLOCKS}
    exec curl -q -s -g -N --noproxy '*' --max-time "$limit" -o "$work/body" \\
      -w '%{{http_code}} %{{time_total}}' "$@" 2>/dev/null)
  rc=$?
  said=${{said:-000 0}}
}}
engine() {{ get {_ENGINE_SECONDS} --unix-socket "$socket" "$2"; part "$1" "$rc $said"; }}
# Gradio 4 has no prefix; what is no plain path is none either.
page() {{
  get {_PAGE_SECONDS} "$base$1"
  # Refused, or cut by what forwards the port: nobody listens there yet.
  while [ "$((tries -= 1))" -gt 0 ]; do
    case $rc in 7|52|56) sleep {_TRY_SECONDS}; get {_PAGE_SECONDS} "$base$1" ;; *) break ;; esac
  done
  prefix=$(grep -o '"api_prefix" *: *"[^"]*"' "$work/body" | head -n 1 | cut -d '"' -f 4)
  case $prefix in *[!A-Za-z0-9/._-]*) prefix= ;; esac
  part page "$rc $said"
}}
send() {{ get "$3" -H 'Content-Type: application/json' -H 'Expect:' --data-binary "@$work/$1" "$base$2"; }}
post() {{
  [ -z "$late" ] || return
  send "$@"; part post "$1 $rc $said 0"; [ "$rc" != 28 ] || late=1
}}
call() {{
  [ -z "$late" ] || return
  send "$1" "$prefix$2" "$3"
  event=
  [ "$rc ${{said%% *}}" != '0 200' ] ||
    event=$(sed -n 's/.*"event_id" *: *"\\([A-Za-z0-9_-]\\{{1,\\}}\\)".*/\\1/p' "$work/body" | head -n 1)
  if [ -z "$event" ]; then
    part call "$1 $rc $said 0"; [ "$rc" != 28 ] || late=1
    return
  fi
  spent=${{said#* }}
  get "$(awk -v all="$3" -v spent="$spent" 'BEGIN {{
    left = all - spent; if (left < 0.1) left = 0.1; printf "%.3f", left }}')" "$base$prefix$2/$event"
  part stream "$1 $rc $said $spent"; [ "$rc" != 28 ] || late=1
}}
"""


def _body(profile: Profile, call: Call) -> str:
    if profile == "openai":
        said = [{"role": "user", "content": "\n".join(call.inputs)}]
        return json.dumps({"model": call.model, "messages": said, "temperature": 0})
    return json.dumps({"data": list(call.inputs)})


def _parts(out: bytes) -> list[tuple[str, list[str], bytes]]:
    """Name, words and body of every part that arrived whole."""
    found, at = [], 0
    while (end := out.find(b"\n", at)) >= 0:
        words = out[at:end].decode("ascii", "replace").split(" ")
        if len(words) < 3 or words[0] != "fleet" or not words[-1].isdecimal():
            break
        start, size = end + 1, int(words[-1])
        if start + size > len(out):
            break
        found.append((words[1], words[2:-1], out[start : start + size]))
        at = start + size + 1
    return found


def _reply(kind: str, rc: int, code: int, seconds: float, body: bytes) -> Reply:
    answer: Reply | None = None
    if code == 200 and kind == "stream":
        answer = _streamed(seconds, body)
    elif code == 200 and kind == "post":
        answer = _posted(seconds, body)
    if answer is not None:
        return answer
    if rc != 0:
        return Reply(seconds, trouble=_curl(str(rc)))
    if code == 200:
        what = "the stream ended without an answer" if kind == "stream" else f"it said {_shown(body)}"
        return Reply(seconds, trouble=f"no answer: {what}")
    refused = 400 <= code < 500 and code not in (408, 425, 429)
    return Reply(seconds, trouble=f"HTTP {code}: {_shown(body)}", final=refused)


def _streamed(seconds: float, body: bytes) -> Reply | None:
    """The end of Gradio's stream of events; None where it has none."""
    event = ""
    for line in body.decode("utf-8", "replace").split("\n"):
        name, _, value = line.rstrip("\r").partition(":")
        if name == "event":
            event = value.strip()
        elif name == "data" and event == "error":
            return Reply(seconds, trouble=f"the service answered with an error: {value.strip()}", final=True)
        elif name == "data" and event == "complete":
            try:
                data = json.loads(value)
            except ValueError:
                return None  # the stream was cut within the answer
            items = data if isinstance(data, list) else [data]
            return Reply(seconds, " ".join(str(item) for item in items))
    return None


def _posted(seconds: float, body: bytes) -> Reply | None:
    try:
        return Reply(seconds, str(json.loads(body)["choices"][0]["message"]["content"]))
    except (ValueError, LookupError, TypeError):
        return None


class _Inspect(api.Raw):
    id: str
    state: api.State
    restart_count: int = 0


def _state(body: bytes) -> State | None:
    try:
        raw = from_json(body, _Inspect)
    except msgspec.MsgspecError:
        return None
    state = raw.state
    return State(raw.id, state.status, state.exit_code, state.error, state.oom_killed, raw.restart_count)


_CURL = {
    "0": "",
    "6": "the address has no meaning",
    "7": "nothing listens on the port",
    "23": "more was said than is taken",
    "28": "no answer in time",
    "52": "the connection was closed without an answer",
    "56": "the connection broke",
    "127": "curl is not installed",
}


def _curl(rc: str) -> str:
    """What an exit status of curl means."""
    return _CURL.get(rc, f"curl ended with exit code {rc}")


def _shown(body: bytes) -> str:
    return repr(body[:300].decode("utf-8", "replace"))


def _int(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
