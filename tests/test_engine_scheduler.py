"""Whose turn it is: sessions share the slots, prompts share the steps, and nobody starves."""

from dataclasses import dataclass

from stentor.engine.scheduler import (
    PIECE_TOKENS,
    PROMPT_TOKENS_PER_STEP,
    FairQueue,
    PromptTurns,
)


def filled(*entries: str) -> FairQueue[str]:
    """Return a queue with entries such as 'a1': session a, request 1."""
    queue: FairQueue[str] = FairQueue()
    for entry in entries:
        queue.add(entry[0], entry)
    return queue


def served(queue: FairQueue[str]) -> list[str]:
    """Return the order in which one slot serves everybody, one request after the other."""
    order = []
    while (item := queue.take(1)) is not None:
        order.append(item)
        queue.give_back(item[0])
    assert len(queue) == 0
    return order


def taken(queue: FairQueue[str], num_slots: int) -> list[str]:
    """Return who gets a slot at once."""
    items: list[str] = []
    while (item := queue.take(num_slots - len(items))) is not None:
        items.append(item)
    return items


def test_one_session_is_served_in_the_order_it_asked() -> None:
    assert served(filled("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_a_session_with_many_requests_does_not_starve_the_others() -> None:
    queue = filled("a1", "a2", "a3", "a4", "b1", "c1", "c2")
    assert list(queue) == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]
    assert served(queue) == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]


def test_whoever_was_served_goes_behind_those_who_came_meanwhile() -> None:
    queue = filled("a1", "a2", "a3")
    assert queue.take(1) == "a1"
    queue.add("b", "b1")
    queue.give_back("a")
    queue.add("c", "c1")
    assert served(queue) == ["b1", "a2", "c1", "a3"]


def test_whoever_holds_slots_comes_after_those_who_hold_none() -> None:
    queue = filled("a1", "a2", "b1")
    assert queue.take(8) == "a1"
    queue.add("c", "c1")
    assert list(queue) == ["b1", "c1", "a2"]
    assert [queue.take(8) for _ in range(4)] == ["b1", "c1", "a2", None]


def test_a_session_leaves_as_many_slots_free_as_it_holds() -> None:
    """Otherwise forty requests of one browser would hold every slot until one of them ends."""
    greedy = [f"a{number}" for number in range(10)]
    queue = filled(*greedy)
    held = taken(queue, 8)
    assert held == greedy[:4]
    queue.add("b", "b1")
    assert [queue.take(4), queue.take(3)] == ["b1", None]
    queue.give_back("a")
    queue.give_back("a")
    assert queue.take(5) == "a4", "a holds two of eight, b one"


def test_a_lone_slot_is_given_to_anybody() -> None:
    assert taken(filled("a1", "a2"), 1) == ["a1"]
    assert taken(filled(*(f"{name}1" for name in "abcdefgh")), 8) == [
        f"{name}1" for name in "abcdefgh"
    ]


def test_removing_out_of_turn_and_nothing_is_kept() -> None:
    queue = filled("a1", "a2", "b1")
    assert queue.num_waiting("a") == 2
    assert queue.remove("a", "a1")
    assert queue.remove("b", "b1")
    assert not queue.remove("b", "b1") and not queue.remove("c", "c1")
    assert list(queue) == ["a2"]
    assert queue.take(1) == "a2" and queue.take(1) is None
    queue.give_back("a")
    assert len(queue) == 0 and list(queue) == []
    assert not queue._waiting and not queue._held


@dataclass(eq=False)
class Prompt:
    session: str
    num_unread: int


def read(turns: PromptTurns, prompts: list[Prompt]) -> list[tuple[Prompt, int]]:
    """Read one step's shares, and let go of the prompts that are read."""
    shares = turns.shares(prompts)
    for prompt, share in shares:
        prompt.num_unread -= share
    prompts[:] = [prompt for prompt in prompts if prompt.num_unread]
    return shares


def test_a_step_reads_a_bounded_number_of_tokens() -> None:
    prompts = [Prompt(name, 500) for name in "abcd"]
    shares = read(PromptTurns(), prompts)
    assert [share for _, share in shares] == [PIECE_TOKENS] * 2
    shares = read(PromptTurns(), [Prompt(str(number), 12) for number in range(30)])
    assert sum(share for _, share in shares) == PROMPT_TOKENS_PER_STEP
    assert all(share == 12 for _, share in shares[:-1])


def test_no_prompts_no_shares() -> None:
    turns = PromptTurns()
    assert turns.shares([]) == []
    read(turns, [Prompt("a", 3)])
    assert turns.shares([]) == [] and turns._sessions == []


def test_short_prompts_pass_long_ones() -> None:
    long, short = Prompt("a", 500), Prompt("b", 12)
    shares = read(PromptTurns(), [long, Prompt("c", 400), short])
    assert shares[0] == (long, PIECE_TOKENS), "the first in turn always moves"
    assert shares[1] == (short, 12)


def test_a_long_prompt_moves_however_many_short_ones_arrive() -> None:
    """Shortest first alone would never read it while short prompts keep coming."""
    turns, long = PromptTurns(), Prompt("long", 500)
    prompts = [long]
    for step in range(200):
        prompts += [Prompt(f"short {step} {number}", 40) for number in range(4)]
        read(turns, prompts)
        if long not in prompts:
            break
    assert long not in prompts


def test_twenty_long_prompts_of_one_session_do_not_hold_up_another() -> None:
    """The newcomer's turn comes every other step: sixteen steps for its eight pieces."""
    turns = PromptTurns()
    prompts = [Prompt("greedy", 500) for _ in range(20)]
    read(turns, prompts)
    newcomer = Prompt("newcomer", 500)
    prompts.append(newcomer)
    num_steps = 0
    while newcomer in prompts:
        read(turns, prompts)
        num_steps += 1
    assert num_steps <= 2 * -(-500 // PIECE_TOKENS)
    assert len(prompts) > 10, "the greedy session had the rest"


def test_sessions_that_left_are_forgotten() -> None:
    turns = PromptTurns()
    for number in range(50):
        read(turns, [Prompt(f"session {number}", 5)])
    assert len(turns._sessions) == 1
