"""All of VashSender on this machine: start, stop, restart and scale."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cli.local import LocalError, packages
from cli.local.ports import refuse_taken
from cli.local.programs import (
    BROKER,
    MAILBOX,
    SENDER,
    Program,
    broker_of,
    broker_program,
    mailbox_program,
    sender_program,
    service_programs,
)
from cli.local.readiness import READY_TIMEOUT_SECONDS, refuse_ended, relative, wait_ready
from cli.local.supervise import State, Supervisor
from cli.local.targets import write_targets
from cli.output import step
from cli.settings import LocalSettings
from shared.secret_files import write_private

POLL_SECONDS = 0.1
BROKER_PACKAGES = ("rabbitmq-server",)


class Installation:
    """One `var_dir` and the processes that use it. The constructor does nothing yet."""

    def __init__(self, config: LocalSettings) -> None:
        self.config = config
        self.supervisor = Supervisor(config.run_dir, config.logs)
        self._notes_file = config.run_dir / "installation.json"

    # State

    @property
    def is_running(self) -> bool:
        return self.supervisor.is_running

    @property
    def overrides(self) -> Mapping[str, str]:
        """Settings passed at the start, for example by the demo. They last until the installation stops."""
        found: dict[str, str] = self._notes().get("overrides", {})
        return found

    @property
    def directory(self) -> Path:
        """The folder it was started in; its services read the `.env` there."""
        return Path(self._notes().get("directory", Path.cwd()))

    def states(self) -> list[State]:
        """Every program. Raises LocalError if supervisord does not run."""
        return self.supervisor.states()

    def senders(self) -> list[str]:
        """The senders' names, in order of their numbers."""
        names = [name for name in self.supervisor.names() if name.startswith(f"{SENDER}-")]
        return sorted(names, key=_number)

    # Actions

    def start(self, *, senders: int, mailbox: bool = False, overrides: Mapping[str, str] | None = None) -> None:
        """Starts every program that is not running and waits until all are ready. Prints each step on stderr.

        Raises ConfigurationError, LocalError (a taken port, a missing package) or NotReadyError, after stopping what it
        started."""
        was_running = self.is_running
        try:
            self._start(senders, mailbox, overrides or {}, was_running)
        except BaseException:
            if not was_running:
                self.stop()
            raise

    def stop(self) -> None:
        """Stops everything: first all services together, with their drains, then mailbox, broker and supervisord."""
        supervisor = self.supervisor
        if supervisor.is_running:
            names = [state.name for state in supervisor.states()]
            with step("services") as current:
                services = [name for name in names if name not in (BROKER, MAILBOX)]
                supervisor.stop(services)
                current.note = f"stopped: {', '.join(services) or 'none ran'}"
            with step("broker, supervisor") as current:
                supervisor.stop([name for name in names if name in (BROKER, MAILBOX)])
                supervisor.shut_down()
                current.note = "stopped"
        self._end_strays()
        # Even if the supervisor has died, neither the node nor its epmd may stay behind.
        broker_of(self.config).stop()
        supervisor.forget()
        write_targets(self.config, [])
        self._notes_file.unlink(missing_ok=True)

    def restart(self) -> None:
        """Restarts the services with current settings, one process at a time; each is ready before the next stops.
        The API is first, because it verifies what the senders sign."""
        from cli.local import preparation

        self._need_running()
        preparation.leave_signing_key(self.config)
        for program in service_programs(self.config, max(map(_number, self.senders()), default=0), self.overrides):
            if program.name not in self.supervisor.names():
                continue
            with step(program.name) as current:
                self.supervisor.stop([program.name])
                self.supervisor.write(program)
                self.supervisor.start_program(program.name)
                wait_ready(self.supervisor, [program])
                current.note = "restarted"
        write_targets(self.config, self.supervisor.names())

    def revive(self) -> None:
        """Restarts a supervisord that died, with its programs: it adopts those still running and starts the others.
        Raises LocalError if there are none."""
        if not self.supervisor.names():
            self._need_running()
        self.supervisor.start(self.directory)

    def scale(self, senders: int) -> tuple[list[str], list[str]]:
        """Runs this number of senders and returns the names added and removed. The others keep their process."""
        from cli.local import preparation

        self._need_running()
        preparation.leave_signing_key(self.config)
        now = {_number(name): name for name in self.senders()}
        added = [
            sender_program(self.config, number, self.overrides) for number in range(1, senders + 1) if number not in now
        ]
        removed = [name for number, name in sorted(now.items(), reverse=True) if number > senders]
        refuse_taken(_ports(added))
        self.supervisor.add(added)
        if removed:
            self.supervisor.stop(removed)
            for name in removed:
                self.supervisor.remove(name)
        write_targets(self.config, self.supervisor.names())
        wait_ready(self.supervisor, added)
        return [program.name for program in added], removed

    # Steps of the start

    def _start(self, senders: int, mailbox: bool, overrides: Mapping[str, str], was_running: bool) -> None:
        from cli.local import preparation  # imports database and broker clients, which other verbs do not need

        config, supervisor = self.config, self.supervisor
        first = [broker_program(config)] if config.private_broker else []
        if first:
            broker_of(config).leave_addresses(config.secrets_dir)
            with step("packages") as current:
                installed = packages.ensure(BROKER_PACKAGES)
                what = (
                    f"installed: {', '.join(installed)}"
                    if installed
                    else f"already there: {', '.join(BROKER_PACKAGES)}"
                )
                current.note = what
        with step("supervisor") as current:
            if was_running:
                current.note = "already running"
            else:
                strays = supervisor.holders()
                if not strays:
                    supervisor.forget()
                supervisor.start(Path.cwd())
                # Programs that outlived their supervisor keep their settings.
                kept = dict(overrides) or (dict(self.overrides) if strays else {})
                self._note(directory=str(Path.cwd()), overrides=kept)
                current.note = f"started, log files in {relative(config.logs)}"
                if strays:
                    current.note = f"started, adopted {', '.join(sorted(strays))}, which outlived the previous one"
            had_broker = BROKER in supervisor.holders()
            supervisor.add(first)
        with step("database") as current:
            current.note = preparation.upgrade_database(config)
        with step("first API key") as current:
            current.note = preparation.first_key(config)
        preparation.leave_signing_key(config)
        programs = service_programs(config, senders, self.overrides)
        if mailbox:
            programs.append(mailbox_program(config))
        running = supervisor.holders()
        refuse_taken(_ports(program for program in programs if program.name not in running))
        # Services load while the broker boots, and connect once it is up.
        added = supervisor.add(programs)
        write_targets(config, supervisor.names())
        with step("broker") as current:
            current.note = self._broker_ready(had_broker)
        with step("topology") as current:
            current.note = preparation.declare_topology(config.broker_admin_url)
        with step("services") as current:
            wait_ready(self.supervisor, programs)
            there = [program.name for program in programs if program.name not in added]
            notes = {"started": added, "already running": there}
            current.note = "; ".join(f"{what}: {', '.join(names)}" for what, names in notes.items() if names)

    def _broker_ready(self, had_broker: bool) -> str:
        config = self.config
        if not config.private_broker:
            return "the one in VASHSENDER_AMQP_URL"
        broker = broker_of(config)
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        # `wait_ready` needs the node's process, which appears a moment later.
        while not broker.is_running and time.monotonic() < deadline:
            refuse_ended(self.supervisor, [BROKER])
            time.sleep(POLL_SECONDS)
        broker.wait_ready()
        return f"{'already running' if had_broker else 'started'}: private RabbitMQ on 127.0.0.1:{config.broker_port}"

    def _notes(self) -> dict[str, Any]:
        """What `start` recorded for later commands."""
        try:
            found: dict[str, Any] = json.loads(self._notes_file.read_text())
        except FileNotFoundError:
            return {}
        return found

    def _note(self, **notes: object) -> None:
        write_private(self._notes_file, json.dumps(notes))

    def _end_strays(self) -> None:
        """Ends programs that outlived their supervisor or did not stop."""
        for signal_number, seconds in ((15, self.config.drain_seconds + 5), (9, 5)):
            holders = self.supervisor.holders()
            for pid in holders.values():
                try:
                    os.kill(pid, signal_number)
                except ProcessLookupError:
                    continue
            deadline = time.monotonic() + seconds
            while self.supervisor.holders() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        left = self.supervisor.holders()
        if left:
            raise LocalError(f"still running: {', '.join(f'{name} (pid {pid})' for name, pid in left.items())}")

    def _need_running(self) -> None:
        if not self.is_running:
            raise LocalError("VashSender is not running here: `vashsender start` starts it")


def _ports(programs: Iterable[Program]) -> dict[str, int]:
    return {purpose: port for program in programs for purpose, port in program.ports.items()}


def _number(sender: str) -> int:
    return int(sender.rpartition("-")[2])
