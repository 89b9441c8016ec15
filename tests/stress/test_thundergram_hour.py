"""An hour of Thundergram in less: a thousand people come, chat and go, and the books must balance.

An hour is compressed into PYLOOP_CHAOS_SECONDS. People log in, write to one or several others,
write lines that are wrong, and leave: most by closing their sending side and reading to the end,
others by a reset, by a close with input unread, without a word (their machine is gone), or they
stop to read while others flood them. Some never get as far as a login. All is decided by a random
generator with a fixed seed (PYLOOP_STRESS_SEED); the threads of time are not, so two runs differ.

What is checked, beside that the server lives, ends cleanly and stays small:

- Whatever arrives was sent, byte for byte, by the author that it names, to its reader; once, and in
  the order of that author.
- Someone who leaves in peace has been told of each line that was wrong and of each addressee who
  was not connected; so for each addressee, what he sent is what arrived, plus what he was told of,
  plus what the queue policy in examples/thundergram.py gives up: what waited for a peer who was
  disconnected or had gone. That last part may only be there while such a peer was.
- Nobody who reads is disconnected, and whoever has left in peace can come back at once.
"""

import faulthandler
import heapq
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count

import pytest
from example_process import LIMIT, LineClient, Server, descriptor_limit
from load import new_socket, reset, seed, size, vanish

from pyloop.examples import thundergram

SECONDS = size("PYLOOP_CHAOS_SECONDS", 30)
PEOPLE = size("PYLOOP_CHAOS_CLIENTS", 1000)

pytestmark = [pytest.mark.stress, pytest.mark.timeout(SECONDS + 300)]

HOUR = 3600.0
ONLINE = 600.0  # all of these: seconds of that hour, on average
OFFLINE = 120.0
BETWEEN_LINES = 60.0

# Of our own seconds, since they have to be longer than a slow machine is slow.
LOGIN_LIMIT = 8
STUCK_LIMIT = 1

# How sessions end, and how many of 100 do so.
ENDINGS = {"peace": 76, "reset": 7, "close": 7, "vanish": 3, "deaf": 2, "no login": 2, "refused": 3}
FLOOD = 400  # long lines from each of three people to one who has become deaf

REFUSALS = {
    b"server\n": "reserved",
    b"a:b\n": "without ':' and ','",
    b"\xff\xfe\n": "utf-8",
    b"\n": "the login is empty",
    b"x" * 100 + b"\n": str(thundergram.MAX_LOGIN),
}
WRONG_LINES = {
    b"no colon\n": "no ':' in the line",
    b": nobody\n": "no addressee",
    b"\xd0: bad\n": "utf-8",
    b"x" * (thundergram.MAX_LINE + 1) + b"\n": str(thundergram.MAX_LINE),
}
FILLER = "".join(map(chr, (*range(0x20, 0x7F), *range(0x430, 0x450), 0x2603, 0x1F40D))) * 40
NOT_CONNECTED = "not connected: "


@dataclass
class Line:
    """A message that was sent."""

    text: str
    addressees: tuple[str, ...]
    at: float
    arrived: set[str] = field(default_factory=set)
    done: float = float("inf")  # when, at the latest, the server was through with it


class Session:
    """One connection of one person, from our side."""

    def __init__(self, hour: "ThundergramHour", number: int, login: str, ending: str) -> None:
        self.hour = hour
        self.number = number
        self.login = login
        self.ending = ending
        self.started = time.monotonic()
        self.ended = float("inf")
        self.sock = new_socket(number, 4096 if ending == "deaf" else None)
        self.fd = self.sock.fileno()
        self.sock.connect_ex(hour.address)
        self.accepted = False
        self.at_peace = False  # left by closing the sending side, and read to the end
        self.closing = False  # no more is to be sent
        self.deaf = False
        self.lines: list[Line] = []
        self.told = Counter[str]()  # addressee: how often we were told that it is not there
        self.wrong_lines: list[str] = []  # what we shall be told of them, in order
        self.output = bytearray()
        self.input = bytearray()
        match ending:
            case "no login":
                self.output += b"half a"
            case "refused":
                line, self.reason = hour.rng.choice(list(REFUSALS.items()))
                self.output += line
            case _:
                self.output += f"{login}\n".encode()
                self.write([login])
        self.interest = 0
        hour.poll.register(self.fd, 0)
        self.update()

    # ---- sending

    def write(self, addressees: list[str], length: int = 0) -> None:
        number = len(self.lines)
        start = (self.number * 7 + number) % 100
        text = f"{self.number}.{number}.{FILLER[start : start + length]}"
        self.lines.append(Line(text, tuple(addressees), time.monotonic()))
        self.output += f"{','.join(addressees)}: {text}\n".encode()

    def write_wrong(self, line: bytes, complaint: str) -> None:
        self.output += line
        self.wrong_lines.append(complaint)

    def update(self) -> None:
        """Tell epoll what we want."""
        interest = 0 if self.deaf else select.EPOLLIN
        if self.output:
            interest |= select.EPOLLOUT
        if interest != self.interest:
            self.hour.poll.modify(self.fd, interest)
            self.interest = interest

    def flush(self) -> None:
        with suppress(BlockingIOError):
            while self.output:
                del self.output[: self.sock.send(self.output[:65536])]
        if self.closing and not self.output:
            self.sock.shutdown(socket.SHUT_WR)
            self.closing = False

    def end_in_peace(self) -> None:
        self.at_peace = self.closing = True
        if not self.output:
            self.flush()

    # ---- receiving

    def on_event(self, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self.flush()
            if events & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
                data = self.sock.recv(65536)
                self.input += data
                *lines, rest = self.input.split(b"\n")
                self.input = rest
                for line in lines:
                    self.on_line(line.decode())
                if not data:
                    self.on_end()
                    return
        except BlockingIOError:
            pass
        except OSError:
            # With us going, the server may have closed before it has read all.
            assert self.ending not in ("peace", "refused", "no login"), f"{self} was disconnected"
            self.on_end()
            return
        self.update()

    def on_line(self, line: str) -> None:
        author, _, text = line.partition(": ")
        if author != thundergram.SERVER:
            self.on_message(author, text)
        elif text.startswith(NOT_CONNECTED):
            self.told.update(text.removeprefix(NOT_CONNECTED).split(", "))
        elif self.accepted:
            assert self.wrong_lines.pop(0) in text
        elif self.ending == "no login":
            assert text == f"no login came within {LOGIN_LIMIT:g} seconds"
            self.accepted = True
        elif self.ending == "refused":
            assert self.reason in text
            self.accepted = True
        else:
            assert text == f"the login {self.login!r} is already taken"
            self.hour.taken(self)
            self.ending = "taken"

    def on_message(self, author: str, text: str) -> None:
        session, number, _ = text.split(".", 2)
        sender = self.hour.sessions[int(session)]
        line = sender.lines[int(number)]
        assert author == sender.login
        assert text == line.text, f"{sender} to {self}: number {number} is not what was sent"
        assert self.login in line.addressees
        assert self.login not in line.arrived, f"{text!r} came twice to {self.login}"
        line.arrived.add(self.login)
        line.done = min(line.done, time.monotonic())
        last = self.hour.last.get((sender.number, self.login), -1)
        assert int(number) > last, f"{text!r} came after number {last}"
        self.hour.last[sender.number, self.login] = int(number)
        if sender is self and not self.accepted:
            self.accepted = True
            self.hour.accepted(self)

    def on_end(self) -> None:
        """The connection is at its end."""
        assert not self.input or not self.at_peace
        assert self.at_peace or self.ending != "peace", f"{self} was disconnected"
        if self.ending in ("no login", "refused"):
            assert self.accepted
        self.leave(self.sock.close)

    def leave(self, close: Callable[[], object]) -> None:
        """Close the connection in this way."""
        self.hour.poll.unregister(self.fd)
        del self.hour.open[self.fd]
        close()
        self.ended = time.monotonic()
        self.hour.has_left(self)

    def __repr__(self) -> str:
        return f"<{self.login} {self.number} {self.ending}>"


class ThundergramHour:
    def __init__(self, address: tuple[str, int], rng: random.Random, poll: select.epoll) -> None:
        self.address = address
        self.rng = rng
        self.poll = poll
        self.sessions: list[Session] = []
        self.open: dict[int, Session] = {}
        self.online: dict[str, Session] = {}  # whose login is accepted, and who reads
        self.by_login: dict[str, list[Session]] = {}
        self.last: dict[tuple[int, str], int] = {}
        self.refused = 0
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.ties = count()
        self.factor = HOUR / SECONDS
        self.logins = [f"user{n}" for n in range(PEOPLE)]
        self.over = False

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (time.monotonic() + seconds, next(self.ties), call))

    def later(self, mean: float, call: Callable[[], None]) -> None:
        """Call it some time later: after `mean` seconds of the hour, on average."""
        self.after(self.rng.expovariate(1 / mean) / self.factor, call)

    # ---- what people do

    def come(self, login: str) -> None:
        if self.over:
            return
        (ending,) = self.rng.choices(list(ENDINGS), list(ENDINGS.values()))
        session = Session(self, len(self.sessions), login, ending)
        self.sessions.append(session)
        self.open[session.fd] = session
        self.by_login.setdefault(login, []).append(session)

    def accepted(self, session: Session) -> None:
        self.online[session.login] = session
        self.later(BETWEEN_LINES, lambda: self.talk(session))
        self.later(ONLINE, lambda: self.go(session))

    def taken(self, session: Session) -> None:
        """Its own last connection is still there for the server. Not if that left in peace."""
        before = [s for s in self.by_login[session.login] if s is not session and s.lines]
        before = [s for s in before if s.ending != "taken"]
        assert before, f"nobody was {session}"
        assert not before[-1].at_peace, f"{before[-1]} has left in peace and is still there"
        self.refused += 1

    def talk(self, session: Session) -> None:
        if self.online.get(session.login) is not session:
            return
        if self.rng.random() < 0.03:
            session.write_wrong(*self.rng.choice(list(WRONG_LINES.items())))
        length = 3000 // 4 if self.rng.random() < 0.02 else self.rng.randrange(120)
        session.write(
            self.rng.sample(self.logins, min(PEOPLE, self.rng.choice([1, 1, 2, 5]))), length
        )
        session.update()
        self.later(BETWEEN_LINES, lambda: self.talk(session))

    def go(self, session: Session) -> None:
        """Leave, as is decided; whose way is not to get a login leaves in peace."""
        if self.online.get(session.login) is not session:
            return
        if session.output and session.ending in ("reset", "close", "vanish"):
            # Half a line and an end would be a line.
            self.after(0.1, lambda: self.go(session))
            return
        del self.online[session.login]
        match session.ending:
            case "reset":
                session.leave(lambda: reset(session.sock))
            case "close":
                session.leave(session.sock.close)
            case "vanish":
                session.leave(lambda: vanish(session.sock) or reset(session.sock))
            case "deaf":
                session.deaf = True
                session.update()
                flooders = self.rng.sample(list(self.online.values()), min(3, len(self.online)))
                for flooder in flooders:
                    for _ in range(FLOOD):
                        flooder.write([session.login], 3000)
                    flooder.update()
                self.after(2.5 * STUCK_LIMIT, lambda: self.hear_again(session))
            case _:
                session.end_in_peace()
                session.update()

    def hear_again(self, session: Session) -> None:
        """One who was deaf reads what is there, and half of them to the end."""
        if self.open.get(session.fd) is not session:
            return
        session.deaf = False
        if self.rng.random() < 0.5:
            session.leave(lambda: reset(session.sock))
        else:
            with suppress(OSError):  # the server may have reset it
                session.end_in_peace()
            session.at_peace = False  # whatever the server gave up is lost
            session.update()

    def has_left(self, session: Session) -> None:
        if self.online.get(session.login) is session:
            del self.online[session.login]
        # At once, where that must be possible.
        if session.at_peace and self.rng.random() < 0.2:
            self.come(session.login)
        else:
            self.later(OFFLINE, lambda: self.come(session.login))

    # ---- the clock

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and not until():
            while self.timers and self.timers[0][0] <= now:
                heapq.heappop(self.timers)[2]()
            wait = min(end, self.timers[0][0] if self.timers else end) - time.monotonic()
            for fd, events in self.poll.poll(max(wait, 0)):
                if fd in self.open:
                    self.open[fd].on_event(events)

    def finish(self) -> None:
        """Everybody leaves; raises TimeoutError when somebody cannot."""
        self.over = True
        # Whoever is on the way to a login leaves as soon as it is there.
        self.run(LOGIN_LIMIT + STUCK_LIMIT * 10 + LIMIT, self.everybody_has_gone)
        if self.open:
            raise TimeoutError(f"cannot leave: {list(self.open.values())[:10]}")

    def everybody_has_gone(self) -> bool:
        for session in list(self.online.values()):
            session.ending = "peace"
            self.go(session)
        return not self.open

    # ---- the books

    def gone_badly(self, login: str, since: float, until: float) -> bool:
        """Whether a peer of that name may have gone with messages waiting between two times."""
        sessions = [s for s in self.by_login.get(login, []) if s.lines and s.ending != "taken"]
        for session, following in zip(sessions, [*sessions[1:], None], strict=True):
            # Its name is free again at the latest when the next one has it.
            free = following.ended if following is not None else float("inf")
            if not session.at_peace and session.started <= until and free >= since:
                return True
        return False

    def balance(self) -> Counter[str]:
        """Account for every message; raises AssertionError for what nothing explains."""
        books = Counter[str]()
        for session in self.sessions:
            books["sessions"] += 1
            books[f"sessions that ended in: {session.ending}"] += 1
            if not session.lines or session.ending == "taken":
                continue
            books["lines"] += len(session.lines)
            through = session.ended
            for line in reversed(session.lines):
                # The server takes the next line when it is through with this one.
                through = line.done = min(through, line.done)
            missing: dict[str, list[Line]] = {}
            for line in session.lines:
                books["messages"] += len(line.addressees)
                books["arrived"] += len(line.arrived)
                for login in set(line.addressees) - line.arrived:
                    missing.setdefault(login, []).append(line)
            if not session.at_peace:
                books["of authors who did not stay to hear"] += sum(map(len, missing.values()))
                continue
            assert session.wrong_lines == [], f"{session} was not told of a wrong line"
            for login, times in session.told.items():
                assert times <= len(missing.get(login, [])), f"{session}, {login}: told too often"
                books["told: not connected"] += times
            for login, lines in missing.items():
                lost = len(lines) - session.told[login]
                may = sum(self.gone_badly(login, line.at, line.done) for line in lines)
                assert lost <= may, (
                    f"{lost} messages of {session} to {login} are lost, where {may} may be"
                )
                books["given up with a peer that had gone or did not read"] += lost
        return books


def sweep(server: Server, idle: int, logins: list[str]) -> None:
    """Write to everybody until those who vanished are noticed and no connection is left."""
    end = time.monotonic() + LIMIT
    with LineClient(server.address) as sweeper:
        sweeper.send("sweeper")
        while server.descriptors() > idle + 1:
            assert time.monotonic() < end, f"{server.descriptors() - idle - 1} are left"
            for start in range(0, len(logins), 100):
                sweeper.send(",".join(logins[start : start + 100]) + ": anybody there?")
                sweeper.send("sweeper: done")
                while (line := sweeper.recv()) != "sweeper: done":
                    assert line.startswith(f"server: {NOT_CONNECTED}"), line


def test_thundergram_hour() -> None:
    faulthandler.cancel_dump_traceback_later()  # pytest's, for tests that ought to be shorter
    rng = random.Random(seed())
    options = ("--login-limit", str(LOGIN_LIMIT), "--stuck-limit", str(STUCK_LIMIT))
    with ExitStack() as stack:
        stack.enter_context(descriptor_limit(PEOPLE + 200))
        server = stack.enter_context(Server("thundergram", *options))
        idle = server.descriptors()
        poll = stack.enter_context(select.epoll())
        hour = ThundergramHour(server.address, rng, poll)
        stack.callback(lambda: [session.sock.close() for session in hour.open.values()])
        for login in hour.logins:
            hour.after(rng.random() * SECONDS / 12, lambda login=login: hour.come(login))  # type: ignore[misc]
        memory = []
        for _ in range(10):
            hour.run(SECONDS / 10)
            memory.append(server.resident())
        most = len(hour.open)
        hour.finish()
        sweep(server, idle, hour.logins)
        books = hour.balance()
    print(f"an hour in {SECONDS} s, {PEOPLE} people, {most} connected in the end")
    for what, number in sorted(books.items()):
        print(f"{number:9,} {what}")
    print(f"{hour.refused:9,} logins were still taken by a peer that had gone")
    print("memory in KiB:", *(n // 1024 for n in memory))
    assert books["arrived"] > PEOPLE  # there was something to count
    # A peer that does not read costs up to two times QUEUE messages, for as long as it does not.
    stuck = 2 * thundergram.QUEUE * thundergram.MAX_LINE * ENDINGS["deaf"] * PEOPLE // 100
    assert max(memory) <= memory[0] + 2 * stuck
