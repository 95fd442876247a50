"""A server as one class without a network: one reply per command, one recipient per body."""

from dataclasses import dataclass, field

from shared.relays.replies import Stage


@dataclass
class Server:
    """A server that keeps the rules, and chooses its answers by `mood`, one number per answer.

    `stored`: bodies it has accepted, by recipient. `said`: the stage and code of its verdict, by recipient."""

    mood: list[int]
    stored: dict[str, bytes] = field(default_factory=dict)
    said: dict[str, tuple[Stage, int]] = field(default_factory=dict)
    unread: bytes = b""
    in_body: bool = False
    sender: bool = False
    recipient: str = ""
    envelope_of: str = ""

    def hear(self, data: bytes) -> bytes:
        """The replies to these bytes."""
        self.unread += data
        replies = b""
        while True:
            if self.in_body:
                end = 0 if self.unread.startswith(b".\r\n") else self.unread.find(b"\r\n.\r\n") + 2
                if end == 1:
                    return replies
                body, self.unread = self.unread[:end], self.unread[end + 3 :]
                replies += self._end_of_body(body)
            else:
                line, mark, rest = self.unread.partition(b"\r\n")
                if not mark:
                    return replies
                self.unread = rest
                replies += self._command(line.decode())

    def _command(self, line: str) -> bytes:
        verb = line[:4]
        assert verb in ("MAIL", "RCPT", "DATA", "RSET", "QUIT"), f"not a command: {line}"
        mood = self.mood.pop(0) if self.mood else 0
        if verb == "RSET":
            self._forget()
            return b"250 Ok\r\n"
        if verb == "QUIT":
            return b"221 bye\r\n"
        if verb == "MAIL":
            assert not self.sender, "nested MAIL"
            self.sender = mood % 5 != 1
            return b"250 Ok\r\n" if self.sender else b"550 sender refused\r\n"
        if verb == "RCPT":
            self.envelope_of = line[line.index("<") + 1 : -1]
            if not self.sender:
                self.said[self.envelope_of] = (Stage.MAIL, 550)
                return b"503 need MAIL\r\n"
            if mood % 5 == 1:
                self.said[self.envelope_of] = (Stage.RCPT, 450)
                return b"450-not\r\n450 now\r\n"
            self.recipient = self.envelope_of
            return b"250 Ok\r\n"
        if not self.recipient and mood % 2:
            return b"503 no recipients\r\n"
        if self.recipient and mood % 5 == 1:
            self.said[self.recipient] = (Stage.DATA, 451)
            return b"451 later\r\n"
        self.in_body = True
        return b"354 go\r\n"

    def _end_of_body(self, body: bytes) -> bytes:
        mood = self.mood.pop(0) if self.mood else 0
        recipient = self.recipient
        self.in_body = False
        self._forget()
        if not recipient:
            assert body == b""
            return b"554 no valid recipients\r\n"
        assert body, "an empty email"
        if mood % 5 == 1:
            self.said[recipient] = (Stage.DOT, 550)
            return b"550 no\r\n"
        self.stored[recipient] = body
        self.said[recipient] = (Stage.DOT, 250)
        return b"250 Ok\r\n"

    def _forget(self) -> None:
        self.sender, self.recipient = False, ""
