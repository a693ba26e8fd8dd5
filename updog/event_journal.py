"""Events of the history in the systemd journal, with fields by which programs find them.

``journalctl -t updog -p warning`` shows what an operator must see, ``journalctl MESSAGE_ID=…`` one kind of
event, and ``journalctl -x`` what to do: ``updog/systemd/updog.catalog`` has a text for every id.
"""

from __future__ import annotations

from signpost import journal
from signpost.journal import Severity
from updog.state import SEVERITIES, Code, Event

IDENTIFIER = "updog"

MESSAGE_IDS = {
    Code.INSTALLED: "29246a2d3ee54c04a17456476ffe37e9",
    Code.INSTALL_FAILED: "b779faa851234ffb80bddcce7191aaae",
    Code.APPLIED: "5fe3f834fdd24e39baa74d26df76034d",
    Code.REVERTED: "55f5bc0c85f34db2826f98ec17ed4d66",
    Code.RECALLED: "c3b09b1a8f794411a461450566a235bb",
    Code.CONFIRMED: "91bf6873128841f496751694aaf187b7",
    Code.BOOT_FAILED: "d43ac3ce088c4717a86f1cb5f3690b47",
    Code.HEALTH_FAILED: "a6566ac098714e40a9d2dde94e95b4df",
    Code.ROLLED_BACK_BY_HAND: "7ea8bfc974ac4444a4622b0cda0c1a42",
    Code.DENIAL_CLEARED: "740cde290f8e4342a3e777251512801c",
    Code.STATE_LOST: "ac84a58d35344774be6fdd14fbc7de61",
    Code.EXPIRED_ACCEPTED: "df535c2afc0443c98e793c8b9a0bfd46",
    Code.DISK_ACCEPTED: "63d3b2ed05c54fb99ee9cf768330606d",
    Code.CLOCK_ACCEPTED: "b2bf561200f84bf8b6e92f95bba9325e",
    Code.PASSED_OVER: "a6fb0090098347ff9c26f7056a39b705",
    Code.RETRIED: "26938bae7d8b4027a53e8a65cea61f35",
    Code.LOCK_TAKEN: "6155bd45359947859fbf47ab691e9bb2",
    Code.LOCK_KEPT: "33896a00260c4cda8c998d96772f303a",
    Code.LOCK_RELEASED: "449be588165a4a73a29ae790db5441fc",
    Code.GIVEN_UP: "332a359c2359453782238c5f30e78489",
    Code.RESTART_FAILED: "7d1e8ff643d5417eb7b8233f366488e7",
    Code.HOOK_PASSED: "e78ead32e80e49fab203f539594112ff",
    Code.HOOK_FAILED: "29ac27da76f74c2abd43d557d3533daa",
    Code.WAITS_LONG: "f355edcd841e4a34a4af7bfdc8fb2ee9",
    Code.CHECKS_FAILED: "bfb61416bf2349069a634d9fdc49fd52",
    Code.CHECKS_RECOVERED: "dd8aa646ed874b32b67df74a76042f12",
    Code.PERMITTED: "b85b9eca43db4c739acad0ab2fc48f1d",
    Code.POSTPONED: "0258de46edb8409495c86725e3fd6d89",
    Code.HELD_BY_HAND: "00a950eb77f8451fbdaa42495738de6a",
    Code.RESUMED: "88967fa2bcac4eaabce02fa7e95a8a2e",
    Code.CHECK_ASKED: "0ae6b81c619d4e5db9163df6f91d815a",
    Code.LOCK_RELEASE_ASKED: "c07b11cd216943aa83541dc6ae49f4a7",
}
"""The MESSAGE_ID of every code: random, and never changed."""


def fields(event: Event) -> dict[str, str]:
    """Return the fields of an event's message."""
    known = {
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "PRIORITY": str(SEVERITIES.get(event.code, Severity.INFO).value),
        "MESSAGE": f"{event.code.value}: {event.sentence}",
        "MESSAGE_ID": MESSAGE_IDS.get(event.code),
        "UPDOG_CODE": event.code.value,
        "UPDOG_VERSION": event.version and str(event.version),
        "UPDOG_CAUSE": event.cause,
        "UPDOG_BY": event.by,
    }
    return {name: value for name, value in known.items() if value}


def send(event: Event) -> bool:
    """Send an event to the journal, if this process is a service; return whether the journal has it."""
    return journal.takes_fields() and journal.send(fields(event))
