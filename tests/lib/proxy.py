"""A TCP proxy whose link can be broken while it runs, in every way that a network breaks one.

`half_open` and `lose` make the kernel drop packets: a socket filter on the proxy's own sockets refuses them before TCP has seen
them, so they are neither acknowledged nor answered. That is what a pulled cable or a forgotten firewall entry looks like to the
other side, and it needs no rights and no network namespace. `swallow` and `hang` are another kind of dead: TCP is well and answers
each keepalive, but nobody behind it reads (a tunnel or balancer whose far side is gone, a process that was stopped)."""

import collections
import contextlib
import ctypes
import fcntl
import selectors
import socket
import struct
import termios
import threading
import time

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
LOAD_RANDOM = (0x20, 0, 0, 0xFFFFF000 + 56)  # BPF_LD|BPF_W|BPF_ABS, SKF_AD_OFF + SKF_AD_RANDOM
JUMP_IF_AT_LEAST, RETURN = 0x35, 0x06
CHUNK, QUEUE_MOST = 65536, 1 << 20
SERVER, CLIENT = "server", "client"  # whose bytes


def attach(sock, lost):
    """Drops this part of the packets that come in: 1.0 is all."""
    if lost >= 1:
        code = [(RETURN, 0, 0, 0)]
    else:
        code = [LOAD_RANDOM, (JUMP_IF_AT_LEAST, 1, 0, int(lost * 2**32)), (RETURN, 0, 0, 0), (RETURN, 0, 0, 0xFFFFFFFF)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(code), ctypes.addressof(text)))


def detach(sock):
    with contextlib.suppress(OSError):  # has none
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def unacknowledged(sock):
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]


class Way:
    """One direction of a connection."""

    def __init__(self, link, whose, src, dst):
        self.link, self.whose, self.src, self.dst = link, whose, src, dst
        self.queue = collections.deque()  # [when it is due, bytes]
        self.queued, self.due, self.ended, self.fin = 0, 0.0, False, False
        self.renamed = False
        self.untyped = whose == CLIENT  # the first message of a client has no type byte
        self.type, self.left, self.head = None, 0, b""

    def cut_at(self, data, into):
        """Where to cut inside `data`: `into` bytes into the body of a CopyData that is longer; None: not here. Follows the
        protocol's messages, so it has to see all bytes."""
        at = 0
        while at < len(data):
            if self.left == 0:
                need = (4 if self.untyped else 5) - len(self.head)
                self.head += data[at:at + need]
                at += min(need, len(data) - at)
                if len(self.head) < (4 if self.untyped else 5):
                    return None
                self.type = None if self.untyped else self.head[:1]
                self.left = struct.unpack(">I", self.head[-4:])[0] - 4
                self.untyped, self.head = False, b""
                if into is not None and self.type == b"d" and self.left > into and at + into <= len(data):
                    return at + into
                continue
            step = min(self.left, len(data) - at)
            at += step
            self.left -= step
        return None


class Link:
    def __init__(self, client, server):
        self.client, self.server = client, server
        self.swallowed = False
        self.up, self.down = Way(self, CLIENT, client, server), Way(self, SERVER, server, client)

    def sockets(self):
        return self.client, self.server


class Proxy:
    """Listens on a free loopback port for one server. All methods may be called from the test's thread while it runs."""

    def __init__(self, port, host="127.0.0.1"):
        self.upstream = (host, port)
        self.links, self.made, self.passed = [], 0, collections.Counter()
        self.delay_s, self.rate, self.lost, self.cutting, self.hanging, self.swallowing = 0.0, None, None, None, False, False
        self.cuts, self.hiding = 0, False
        self.budget, self.budget_at = collections.Counter(), time.monotonic()
        self.calls, self.ending = collections.deque(), False
        self.selector = selectors.DefaultSelector()
        self.wake_in, self.wake_out = socket.socketpair()
        self.wake_in.setblocking(False)
        self.selector.register(self.wake_in, selectors.EVENT_READ)
        self.listener, self.port = None, 0
        self.listen()
        self.error = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # -- what a test calls -----------------------------------------------------------------------------------------
    def dsn(self, dsn):
        """A libpq string of the server, by way of this proxy. Without TLS, because the messages are read here."""
        words = [word for word in dsn.split() if word.split("=")[0] not in ("host", "port")]
        return " ".join([f"host=127.0.0.1 port={self.port}", *words, "sslmode=disable gssencmode=disable"])

    def reset(self):
        """RST on every connection; new ones are served."""
        self.call(lambda: [self.drop(link) for link in list(self.links)])

    def refuse(self):
        """RST on every connection, and nobody listens any more."""
        def go():
            for link in list(self.links):
                self.drop(link)
            self.unlisten()
        self.call(go)

    def half_open(self):
        """Every packet is dropped, both ways and of new connections too; nobody gets a FIN or an RST."""
        def go():
            self.hanging = True
            # What the kernel has still to say for us would be heard after the link has died.
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and any(unacknowledged(s) for link in self.links for s in link.sockets()):
                time.sleep(0.01)
            self.filter(1.0)
        self.call(go)

    def lose(self, part):
        """This part of the packets is dropped, of what comes from either side."""
        self.call(lambda: self.filter(part))

    def hang(self):
        """TCP is alive, but nothing is read; resume() goes on where it was."""
        self.call(lambda: setattr(self, "hanging", True))

    def swallow(self):
        """TCP is alive, and everything is read and thrown away, also after resume(): only new connections carry again."""
        def go():
            self.swallowing = True
            for link in self.links:
                link.swallowed = True
        self.call(go)

    def throttle(self, bytes_a_second):
        self.call(lambda: setattr(self, "rate", bytes_a_second))

    def delay(self, seconds):
        """Each way."""
        self.call(lambda: setattr(self, "delay_s", seconds))

    def cut_in_message(self, whose, into=1):
        """RST once so many bytes of the body of the next longer CopyData have been passed on."""
        self.call(lambda: setattr(self, "cutting", (whose, into)))

    def hide_processes(self):
        """As a pooler does: new connections are told another process number than the server's (BackendKeyData)."""
        self.call(lambda: setattr(self, "hiding", True))

    def resume(self):
        """The link is well again. What was dropped is sent again by TCP; what was swallowed is gone."""
        def go():
            self.delay_s, self.rate, self.cutting, self.hanging, self.swallowing = 0.0, None, None, False, False
            self.filter(None)
            if self.listener is None:
                self.listen()
        self.call(go)

    def close(self):
        self.call(lambda: setattr(self, "ending", True))
        self.thread.join(10)
        self.selector.close()
        self.wake_in.close()
        self.wake_out.close()
        if self.error:
            raise self.error

    # -- the loop's own ---------------------------------------------------------------------------------------------
    def call(self, what):
        """Runs `what` in the loop and waits for it."""
        done = threading.Event()
        self.calls.append((what, done))
        self.wake_out.send(b".")
        assert done.wait(10) or self.error, "the proxy's loop hangs"
        if self.error:
            raise self.error

    def listen(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.selector.register(self.listener, selectors.EVENT_READ)

    def unlisten(self):
        if self.listener is not None:
            self.selector.unregister(self.listener)
            self.listener.close()
        self.listener = None

    def filter(self, lost):
        self.lost = lost
        for sock in ([self.listener] if self.listener else []) + [s for link in self.links for s in link.sockets()]:
            detach(sock) if lost is None else attach(sock, lost)

    def drop(self, link):
        for sock in link.sockets():
            with contextlib.suppress(KeyError):
                self.selector.unregister(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        self.links.remove(link)

    def accept(self):
        with contextlib.suppress(BlockingIOError):
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(self.upstream, 5)
            except OSError:  # the server is down: so is the link
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                return
            link = Link(client, server)
            for sock in link.sockets():
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.lost is not None:
                    attach(sock, self.lost)
            link.swallowed = self.swallowing
            self.links.append(link)
            self.made += 1

    def take(self, way):
        """Reads what is there; False: the link is gone."""
        try:
            data = way.src.recv(CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            self.drop(way.link)
            return False
        if not data:
            way.ended = True
            return True
        at = data.find(b"K\0\0\0\x0c") if self.hiding and way.whose == SERVER and not way.renamed else -1
        if at >= 0:  # comes with the rest of the server's welcome, in one piece
            data, way.renamed = data[:at + 5] + struct.pack(">I", 1) + data[at + 9:], True
        cut = way.cut_at(data, self.cutting[1] if self.cutting and self.cutting[0] == way.whose else None)
        if way.link.swallowed:
            return True
        if cut is not None:
            self.cutting, self.cuts = None, self.cuts + 1
            with contextlib.suppress(OSError):
                way.dst.send(data[:cut])
            self.drop(way.link)
            return False
        way.due = max(way.due, time.monotonic() + self.delay_s)
        way.queue.append([way.due, data])
        way.queued += len(data)
        return True

    def give(self, way, now):
        """Writes what is due; False: the link is gone."""
        while way.queue and way.queue[0][0] <= now and not self.hanging:
            data = way.queue[0][1]
            most = len(data) if self.rate is None else int(self.budget[way])
            if most <= 0:
                return True
            try:
                sent = way.dst.send(data[:most])
            except BlockingIOError:
                return True
            except OSError:
                self.drop(way.link)
                return False
            self.budget[way] -= sent
            self.passed[way.whose] += sent
            way.queued -= sent
            if sent == len(data):
                way.queue.popleft()
            else:
                way.queue[0][1] = data[sent:]
        if way.ended and not way.fin and not way.queue and not self.hanging:
            way.fin = True
            with contextlib.suppress(OSError):
                way.dst.shutdown(socket.SHUT_WR)
            if way.link.up.fin and way.link.down.fin:
                self.drop(way.link)
                return False
        return True

    def watch(self, now):
        """What each socket is waited for, and how long nothing else is due."""
        least = 5.0
        for link in self.links:
            events = collections.Counter()
            for way in (link.up, link.down):
                if not way.ended and way.queued < QUEUE_MOST and not self.hanging:
                    events[way.src] |= selectors.EVENT_READ
                if way.queue and not self.hanging:
                    if way.queue[0][0] > now:
                        least = min(least, way.queue[0][0] - now)
                    elif self.rate is not None:
                        least = min(least, max(0.01, min(1.0, (1 - self.budget[way]) / self.rate)))
                    else:
                        events[way.dst] |= selectors.EVENT_WRITE
            for sock in link.sockets():
                known = self.selector.get_map().get(sock.fileno())
                if events[sock] and known is None:
                    self.selector.register(sock, events[sock], link)
                elif known is not None and not events[sock]:
                    self.selector.unregister(sock)
                elif known is not None and known.events != events[sock]:
                    self.selector.modify(sock, events[sock], link)
        return least

    def earn(self, now):
        """Each way may pass so many bytes a second, and no more than one second's worth at once."""
        if self.rate is not None:
            for link in self.links:
                for way in (link.up, link.down):
                    self.budget[way] = min(max(1.0, self.rate), self.budget[way] + (now - self.budget_at) * self.rate)
        self.budget_at = now

    def turn(self):
        for key, _ in self.selector.select(self.watch(time.monotonic())):
            if key.fileobj is self.wake_in:
                self.wake_in.recv(4096)
            elif key.fileobj is self.listener:
                self.accept()
            elif key.data in self.links:
                for way in (key.data.up, key.data.down):
                    if way.src is key.fileobj and not way.ended and way.queued < QUEUE_MOST and not self.hanging:
                        self.take(way)
                        break
        now = time.monotonic()
        self.earn(now)
        for link in list(self.links):
            for way in (link.up, link.down):
                if link in self.links:
                    self.give(way, now)

    def run(self):
        try:
            while not self.ending:
                while self.calls:
                    what, done = self.calls.popleft()
                    what()
                    done.set()
                if not self.ending:
                    self.turn()
            for link in list(self.links):
                self.drop(link)
            self.unlisten()
        except Exception as error:  # raised in the test's thread, by its next call
            self.error = error
            while self.calls:
                self.calls.popleft()[1].set()
