"""Events in the life of resumable uploads, and random sequences of them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

KIB, MIB = 1024, 1024 * 1024
SIZES = [0, 1, 1000, 64 * KIB + 1, MIB, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1]
TOTALS = [0, 1, 1000, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 8 * MIB, 8 * MIB + 1, 10 * MIB + 5, 16 * MIB + 1]


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Create:
    """Another upload. ``draft``: the IETF's interop version, None for tus 1.0.0."""

    total: int
    draft: int | None = None
    deferred: bool = False
    partial: bool = False  # to be concatenated at the end
    first: int = 0  # bytes sent with the creation


@dataclass(frozen=True)
class Patch:
    which: int
    size: int
    chunked: bool = False
    checksum: str | None = None  # "right" or "wrong"; tus only
    declare: bool = False  # declare a deferred length


@dataclass(frozen=True)
class Cut:
    """A PATCH whose client disconnects after ``at`` bytes: by FIN, by RST, or after a pause."""

    which: int
    size: int
    at: int
    how: str


@dataclass(frozen=True)
class Head:
    which: int


@dataclass(frozen=True)
class Stale:
    """A PATCH at a wrong offset."""

    which: int
    by: int
    size: int


@dataclass(frozen=True)
class TwoWriters:
    """Two PATCHes of these sizes at the same offset and the same time."""

    which: int
    sizes: tuple[int, int]


@dataclass(frozen=True)
class Stalled:
    """A writer stalls after ``at`` bytes and another continues; then the first one wakes up."""

    which: int
    size: int
    at: int


@dataclass(frozen=True)
class Kill:
    """kill -9 of the gateway and its restart, ``after`` seconds after ``at`` bytes of a PATCH have been sent."""

    which: int
    size: int
    at: int
    after: float


@dataclass(frozen=True)
class BucketFault:
    """A PATCH while the connection between gateway and bucket has a fault."""

    which: int
    size: int
    fault: tuple[str, int, str, int]  # action, after how many bytes, direction, times


@dataclass(frozen=True)
class Terminate:
    which: int


@dataclass(frozen=True)
class Expire:
    which: int


@dataclass(frozen=True)
class Janitor:
    pass


sizes, which = st.sampled_from(SIZES), st.integers(0, 3)
creations = st.one_of(
    st.builds(
        Create,
        total=st.sampled_from(TOTALS),
        draft=st.sampled_from([None, None, 3, 5, 6, 8]),
        deferred=st.booleans(),
        first=st.sampled_from([0, 0, *SIZES]),
    ),
    st.builds(Create, total=st.sampled_from(TOTALS), partial=st.just(True)),
)
patches = st.builds(
    Patch,
    which,
    sizes,
    chunked=st.booleans(),
    checksum=st.sampled_from([None, None, "right", "wrong"]),
    declare=st.booleans(),
)
cuts = st.builds(Cut, which, sizes, sizes, st.sampled_from(["fin", "reset", "silence"]))
faults = st.tuples(
    st.sampled_from(["cut", "reset", "stall"]),
    st.sampled_from([0, 1, 300, *SIZES[3:]]),
    st.sampled_from(["up", "down"]),
    st.integers(1, 3),
)
rare = [
    st.builds(Stale, which, st.sampled_from([-1, 1, 5 * MIB]), sizes),
    st.builds(TwoWriters, which, st.tuples(sizes, sizes)),
    st.builds(Stalled, which, sizes, sizes),
    st.builds(Kill, which, sizes, sizes, st.sampled_from([0, 0.05, 0.3])),
    st.builds(Janitor),
]
steps = st.one_of(
    patches,
    patches,
    patches,
    cuts,
    cuts,
    st.builds(Head, which),
    st.builds(BucketFault, which, sizes, faults),
    st.builds(BucketFault, which, sizes, faults),
    creations,
    *rare,
)
endings = st.one_of(st.builds(Terminate, which), st.builds(Expire, which))
sequences = st.tuples(
    creations,
    st.lists(steps, min_size=1, max_size=8),
    st.lists(endings, max_size=1),  # late, since nothing can happen to a finished upload
    st.lists(steps, max_size=2),
).map(lambda drawn: [drawn[0], *drawn[1], *drawn[2], *drawn[3]])
