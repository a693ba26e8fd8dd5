"""Random walks of a node through the table of the agent: what may happen, drawn evenly by a seed.

``tools/random_walks.py`` takes many of them; the tests take a few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.updog.auto.node_model import LOCK, MINUTE, NIGHTS, POLICIES, SENTINEL, World, version
from updog.auto.gates import Inhibitor
from updog.auto.policy import AfterFallback, Apply, Mode
from updog.auto.table import Act, Lock, Phase
from updog.auto.windows import Windows
from updog.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from updog.auto.policy import Policy

SHORTEST, LONGEST = 20, 200
"""Events of a walk."""


def _permit(world: World, number: int) -> None:
    until = world.now + (number + 1) * 10 * MINUTE
    world.wishes = replace(world.wishes, permit=until, without_lock=number % 3 == 0)


def _hold(world: World, number: int) -> None:
    world.wishes = replace(world.wishes, hold="audit" if number == 0 else None)


def _postpone(world: World, number: int) -> None:
    world.wishes = replace(world.wishes, postpone=world.now + number * 10 * MINUTE if number < 4 else None)


def _inhibit(world: World, number: int) -> None:
    there = Inhibitor(source="backup", why="runs", soft=number != 0)
    world.inhibitor = there if number < 2 else None


def _publish(world: World, _number: int) -> None:
    world.published.add(max(world.published) + 1)


def _withdraw(world: World, number: int) -> None:
    world.published -= {max(world.published)} - {1} if number % 2 else set()


def _mark(world: World, number: int) -> None:
    """The publisher marks a release urgent, or not any more."""
    newest = {max(world.published)}
    world.urgent = world.urgent | newest if number % 2 else world.urgent - newest


def _operator(world: World, number: int) -> None:
    """An operator changes by hand what boots next, or discards what is staged."""
    if world.job is not None or world.standing not in {Standing.STAGED, Standing.WAITING}:
        return
    if number % 3 == 0:
        world.boots_next, world.standing = True, Standing.WAITING
    elif number % 3 == 1:
        world.boots_next, world.standing = False, Standing.STAGED
    elif not world.boots_next:
        world.other, world.standing = None, Standing.NONE


def _other_node(world: World, number: int) -> None:
    if world.server.holder != "me":
        world.server.holder = "other" if number < 3 else None


def _end_job(world: World, number: int) -> None:
    is_restart = world.job is Act.RESTART
    world.end_job(well=number % 4 != 0, busy=number == 8)
    if is_restart and number % 2:
        world.reboot()


def _kill(world: World, number: int) -> None:
    if number % 2:
        world.start_daemon()
    else:
        world.kill_in = number % 4


def _trial(world: World, number: int) -> None:
    if number % 3:
        world.confirm()
    else:
        world.fall_back()


def _ask(world: World, number: int) -> None:
    world.release_lock, world.check_now = number % 5 == 0, number % 2 == 0


CHANGES: tuple[dict[str, Any], ...] = (
    {"mode": Mode.RESTART},
    {"mode": Mode.RESTART},
    {"mode": Mode.INSTALL},
    {"mode": Mode.CHECK},
    {"mode": Mode.OFF},
    {"apply": Apply.AT_ONCE},
    {"apply": Apply.AT_RESTART},
    {"windows": NIGHTS},
    {"windows": Windows()},
    {"after_fallback": AfterFallback.RELEASE},
    {"fleet_lock": LOCK},
    {"fleet_lock": None},
)
"""What an operator changes in the configuration."""


def _configure(world: World, number: int) -> None:
    """An operator changes the configuration; who takes the lock server out of it frees the lock by hand."""
    changes = CHANGES[number]
    if world.policy.sentinel is not None and "mode" not in changes:
        return  # the other settings have no effect then
    world.policy = replace(world.policy, **changes)
    world.start_daemon()
    if world.policy.fleet_lock is None and world.server.holder == "me":
        world.server.holder = None


class Kind(NamedTuple):
    """What may happen, and how often beside others; ``happens`` gets a number below 12, which says how."""

    name: str
    happens: Callable[[World, int], None]
    weight: int


KINDS = (
    Kind("minutes pass", lambda world, number: world.pass_time(number + 1), 6),
    Kind("hours pass", lambda world, number: world.pass_time(30 * (number + 1)), 3),
    Kind("the job ends", _end_job, 18),
    Kind("the request to the lock server ends", lambda world, number: world.end_call(number % 3), 4),
    Kind("the lock server answers", lambda world, _: world.end_call(0), 8),
    Kind("a release is published", _publish, 3),
    Kind("a release is withdrawn", _withdraw, 1),
    Kind("a release is marked", _mark, 1),
    Kind("the trial ends", _trial, 3),
    Kind("hold or resume", _hold, 1),
    Kind("postpone", _postpone, 1),
    Kind("permit", _permit, 2),
    Kind("users come or go", lambda world, number: setattr(world, "users", max(0, 2 - number)), 1),
    Kind("an inhibitor comes or goes", _inhibit, 1),
    Kind("a blocker objects or not", lambda world, number: setattr(world, "objects", number == 0), 1),
    Kind("an operator changes what boots next", _operator, 1),
    Kind("another node takes or releases the lock", _other_node, 1),
    Kind("the daemon is killed", _kill, 2),
    Kind("the machine restarts", lambda world, _: world.reboot(), 1),
    Kind("check or release the lock", _ask, 1),
    Kind("an operator changes the configuration", _configure, 1),
    Kind("the clock is set back", lambda world, number: world.pass_time(-60 * number), 1),
)
_WEIGHTED = [kind for kind in KINDS for _ in range(kind.weight)]
_POLICIES = (*POLICIES, *(SENTINEL, replace(SENTINEL, mode=Mode.INSTALL)) * 8)


class Event(NamedTuple):
    """What happens, and how."""

    kind: Kind
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """What happens to one node, one event after the other, and then peace."""

    policy: Policy
    events: tuple[Event, ...]


def walk_of(seed: int) -> Walk:
    """Return the walk of ``seed``; 0 and the numbers after it take the policies in turn."""
    random = Random(seed)
    length = random.randint(SHORTEST, LONGEST)
    events = tuple(Event(random.choice(_WEIGHTED), random.randrange(12)) for _ in range(length))
    return Walk(policy=_POLICIES[seed % len(_POLICIES)], events=events)


def take(walk: Walk) -> World:
    """Let everything of ``walk`` happen to a new node, let it come to rest, and return it.

    Raises:
        AssertionError: a rule is broken.
        TableError: no row matches.
    """
    world = World(policy=walk.policy)
    world.look()
    for kind, number in walk.events:
        kind.happens(world, number)
        world.look()
    world.kill_in = None
    world.settle()
    assert_at_peace(world)
    return world


def problem_of(walk: Walk) -> Exception | None:
    """Return why ``walk`` cannot be taken to its end, whatever it is; None if it can."""
    try:
        take(walk)
    except Exception as error:  # noqa: BLE001 (an error of any kind is a finding)
        return error
    return None


def shortened(walk: Walk) -> Walk:
    """Return ``walk``, which has a problem, without events that it has the problem without."""
    size = len(walk.events)
    while size:
        start = 0
        while start < len(walk.events):
            less = replace(walk, events=walk.events[:start] + walk.events[start + size :])
            if problem_of(less) is None:
                start += size
            else:
                walk = less
        size //= 2
    return walk


def assert_at_peace(world: World) -> None:
    """Assert that nothing is under way, the lock is free or kept with a reason, and what is wanted runs."""
    policy, state = world.policy, world.state
    assert state.phase in {Phase.IDLE, Phase.OFF, Phase.READY, Phase.INSTALLED}, state
    if state.lock is Lock.KEPT:
        assert policy.after_fallback is AfterFallback.KEEP_LOCK
        assert policy.mode is not Mode.OFF
        assert world.server.holder == "me"
        assert state.kept_for in (world.offered or set())
    else:
        assert state.lock is Lock.NO
        assert world.server.holder != "me"
    assert world.hooks_due is None
    is_early = policy.apply is Apply.AT_ONCE or policy.sentinel is not None
    if state.applied is not None:
        assert is_early
        assert policy.mode in {Mode.INSTALL, Mode.RESTART}
        assert world.other in world.published
    if world.sentinel:  # another program restarts this node: only into an update
        assert world.boots_next
    wanted = max(world.published - world.denied, default=0)
    is_taken = state.given_up != version(wanted) and wanted > world.running
    is_in_the_way = world.boots_next and world.other != wanted  # an operator's
    if policy.mode is Mode.RESTART and policy.sentinel is None and is_taken and not is_in_the_way:
        raise AssertionError(f"{wanted} does not run: {world}")
