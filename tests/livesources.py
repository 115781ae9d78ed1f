"""Servers of video on 127.0.0.1 that send in real time, break off and come back: HTTP, and RTSP over TCP."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TS_PACKET_BYTES = 188
PIECE_SECONDS = 0.05


def pieces(path: Path, seconds: float, packet_bytes: int = TS_PACKET_BYTES) -> list[bytes]:
    """A file's bytes in so many equal pieces of whole packets as it has pieces of time."""
    data = path.read_bytes()
    count = round(seconds / PIECE_SECONDS)
    size = -(-len(data) // count // packet_bytes) * packet_bytes
    return [data[at : at + size] for at in range(0, len(data), size)]


class Server:
    """Answers each connection in a thread: `answer(connection, request)`. Counts the requests in `paths`."""

    def __init__(self, streams: list[list[bytes]], content_type: str = "video/mp2t") -> None:
        """streams: one for each connection, sent piece by piece and broken off; behind the last one nobody answers."""
        self._streams, self._type = streams, content_type
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self.served = 0
        self.closed = threading.Event()

    def serve(self) -> None:
        while not self.closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or `accept` would go on waiting
        self._listener.close()

    def next_stream(self) -> Iterator[bytes]:
        stream = self._streams[self.served]
        self.served += 1
        if self.served == len(self._streams):
            self._listener.shutdown(socket.SHUT_RDWR)
        begin = time.monotonic()
        for number, piece in enumerate(stream):
            time.sleep(max(0.0, begin + number * PIECE_SECONDS - time.monotonic()))
            yield piece

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            file = connection.makefile("rwb")
            while line := file.readline():
                lines = [line.decode().strip()]
                while header := file.readline().decode().strip():
                    lines.append(header)
                self.requests.append(lines[0])
                if not self.reply(connection, lines):
                    return

    def reply(self, connection: socket.socket, lines: list[str]) -> bool:
        connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: {self._type}\r\n\r\n".encode())
        for piece in self.next_stream():
            connection.sendall(piece)
        return False


class RtspServer(Server):
    """Transport packets in RTP (payload type 33, RFC 2250), interleaved with the answers (RFC 2326, 10.12)."""

    SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track0\r\n"

    def reply(self, connection: socket.socket, lines: list[str]) -> bool:
        headers = dict(line.split(": ", 1) for line in lines[1:])
        method = lines[0].split()[0]
        answer = ["RTSP/1.0 200 OK", f"CSeq: {headers['CSeq']}", "Session: 1"]
        body = self.SDP if method == "DESCRIBE" else ""
        if method == "SETUP":
            if "TCP" not in headers["Transport"]:
                connection.sendall(f"RTSP/1.0 461 Unsupported transport\r\nCSeq: {headers['CSeq']}\r\n\r\n".encode())
                return True
            answer.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        if body:
            answer += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        connection.sendall(("\r\n".join(answer) + "\r\n\r\n" + body).encode())
        if method != "PLAY":
            return method != "TEARDOWN"
        sequence = 0
        for piece in self.next_stream():
            for at in range(0, len(piece), 7 * TS_PACKET_BYTES):
                part = piece[at : at + 7 * TS_PACKET_BYTES]
                clock = round(time.monotonic() * 90000) % 2**32
                packet = struct.pack(">BBHII", 0x80, 33, sequence % 2**16, clock, 1) + part
                connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                sequence += 1
        return False


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
