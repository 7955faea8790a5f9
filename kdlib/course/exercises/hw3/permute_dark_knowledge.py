"""Homework 3, exercise 4: dark knowledge with permuted predictions (DKPP)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlib.course.exercises.claims import is_like
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise
from kdlib.course.grading.observe import same
from kdlib.course.museum import mistakes

permute_dark_knowledge = Exercise(
    "permute_dark_knowledge",
    "permute_dark_knowledge(teacher, generator) gives the (N, C) logits with each row's largest entry "
    "in its place and all others in a random order.",
    minutes=15,
)


@permute_dark_knowledge.holds("Each row keeps its entries")
def rows_keep_their_entries(ask: Ask, draw: Draw) -> None:
    for teacher, found in _permuted(ask, draw):
        kept = same(found.value.sort(-1).values, teacher.sort(-1).values)
        found.should(kept, "in each row the same six numbers, in some order")


@permute_dark_knowledge.holds("The largest of a row stays where it was")
def largest_stays_in_place(ask: Ask, draw: Draw) -> None:
    for teacher, found in _permuted(ask, draw):
        largest = teacher.argmax(-1, keepdim=True)
        stays = torch.equal(found.value.argmax(-1, keepdim=True), largest)
        stays = stays and same(found.value.gather(-1, largest), teacher.gather(-1, largest))
        found.should(stays, f"the largest in the columns {largest[:, 0].tolist()}")


@permute_dark_knowledge.holds("Each row gets its own order")
def each_row_has_its_own_order(ask: Ask, draw: Draw) -> None:
    teacher = draw.logits(1).repeat(8, 1)
    found = ask(teacher=teacher, generator=draw.generator())
    found.should(_of_its_entries(found.value, teacher), "the teacher's entries, in some order")
    alike = same(found.value, found.value[:1].expand(8, -1))
    found.should(not alike, "not eight rows in the same order")


@permute_dark_knowledge.holds("Every order of the others can occur")
def every_order_may_come(ask: Ask, draw: Draw) -> None:
    row = torch.tensor([[3.0, 1.0, -1.0, -2.0]]).double() + draw.normal(1, 4) / 10
    row = row.roll(draw.integer(0, 3), dims=1)
    others = torch.arange(4) != row.argmax()
    orders = set()
    for teacher in [row] * 30 + [row.repeat(60, 1)]:
        found = ask(teacher=teacher, generator=draw.generator())
        found.should(_of_its_entries(found.value, teacher), "the teacher's entries, in some order")
        orders |= {tuple(x) for x in found.value[:, others].tolist()}
    found.should(
        len(orders) >= 5,  # one may be missing by chance
        f"the six orders of the three smaller ones to come up in 31 calls; {len(orders)} did",
    )


@permute_dark_knowledge.holds("The order comes from the generator, as it stands")
def order_comes_from_the_generator(ask: Ask, draw: Draw) -> None:
    teacher, seed = draw.logits(6), draw.integer(0, 10**6)

    def generator(seed: int, drawn: int = 0) -> torch.Generator:
        made = torch.Generator().manual_seed(seed)
        torch.rand(drawn, generator=made)
        return made

    first = ask(teacher=teacher, generator=generator(seed))
    first.should(_of_its_entries(first.value, teacher), "the teacher's entries, in some order")
    ask(teacher=teacher, generator=generator(seed)).should_be(first.value)
    for other, what in (
        (generator(seed + 1), "with another seed"),
        (generator(seed, 1000), "from which a thousand numbers have been drawn"),
    ):
        found = ask(teacher=teacher, generator=other)
        found.should(not same(found.value, first.value), f"another order from a generator {what}")


@permute_dark_knowledge.holds("The teacher's own tensor stays as it is")
def teacher_is_left_alone(ask: Ask, draw: Draw) -> None:
    teacher, generator = draw.logits(4), draw.generator()
    found = ask(teacher=teacher, generator=generator)
    of_it = _has_moved(found.value, teacher) and _of_its_entries(found.value, teacher)
    found.should(of_it, "the teacher's entries, in other places than before")
    ask.after("teacher", teacher=teacher, generator=generator).should_be(teacher)


def _permuted(ask: Ask, draw: Draw) -> list[tuple[Tensor, Answer]]:
    """Several batches, as one permutation may change nothing, each small enough for a report."""
    batches = [draw.logits(2, 6) for _ in range(3)]
    found = [ask(teacher=teacher, generator=draw.generator()) for teacher in batches]
    for teacher, answer in zip(batches, found, strict=True):
        answer.should(is_like(answer.value, teacher), "a tensor of the same shape")
    moved = [_has_moved(x.value, teacher) for teacher, x in zip(batches, found, strict=True)]
    found[-1].should(any(moved), "entries in other places than before")
    return list(zip(batches, found, strict=True))


def _of_its_entries(value: object, teacher: Tensor) -> bool:
    """Whether every entry is one of the teacher's, up to the rounding of float32."""
    if not is_like(value, teacher):
        return False
    apart = (value.double().reshape(-1, 1) - teacher.reshape(1, -1)).abs()
    return bool((apart.amin(1) < 1e-5).all())


def _has_moved(value: object, teacher: Tensor) -> bool:
    return is_like(value, teacher) and not same(value, teacher)


def reordered(name: str, order: Callable) -> Callable:
    """A wrong answer: in each row the smaller entries, at places x, come from ``order(x, generator)``."""

    def answer(teacher, generator):
        permuted = teacher.clone()
        for row in permuted:
            others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
            row[others] = row[order(others, generator)]
        return permuted

    answer.__name__ = name
    return answer


permute_dark_knowledge.hint(
    "Your rows have other entries than before: they are whole rows of other images.",
    "randperm(len(teacher)) is an order of the images. What should be put in another order?",
    "Within each row, permute the classes; the images stay where they are.",
)(mistakes.samples_permuted)


@permute_dark_knowledge.hint(
    "The largest entry moved with the others.",
    "Its place is the class that the teacher predicts: that must stay.",
    "Find each row's argmax, and permute the entries that are left.",
)
def all_entries_permuted(teacher, generator):
    order = torch.rand(teacher.shape, generator=generator).argsort(-1)
    return teacher.gather(-1, order)


@permute_dark_knowledge.hint(
    "The largest entry does not stay in its place: each row is shuffled as a whole.",
    "randperm of all classes moves every class. Which one should take no part?",
    "Leave the argmax out, and shuffle the C - 1 others among their own places.",
)
def rows_shuffled_whole(teacher, generator):
    rows = [row[torch.randperm(len(row), generator=generator)] for row in teacher]
    return torch.stack(rows)


@permute_dark_knowledge.hint(
    "The largest is in its place, and in many rows it is there twice while another entry is gone.",
    "You permute all entries and then write the largest over whatever has come to its place.",
    "Permute only the others, so that the place of the largest is never taken.",
)
def largest_written_over(teacher, generator):
    order = torch.rand(teacher.shape, generator=generator).argsort(-1)
    largest, place = teacher.max(-1, keepdim=True)
    return teacher.gather(-1, order).scatter(-1, place, largest)


@permute_dark_knowledge.hint(
    "Your rows do not have their own entries any more: something is added to all of them.",
    "What happens when an (N, 1) tensor of the largest entries is added to an (N, C) one?",
    "Put the largest back in its one place, with scatter or a mask.",
)
def largest_added_to_all(teacher, generator):
    largest, place = teacher.max(-1, keepdim=True)
    rest = teacher.clone()
    for row, k in zip(rest, place[:, 0].tolist(), strict=True):
        others = torch.tensor([c for c in range(len(row)) if c != k])
        row[others] = row[others[torch.randperm(len(others), generator=generator)]]
        row[k] = 0
    return rest + largest


permute_dark_knowledge.hint(
    "In many rows an entry is there twice and another one is gone.",
    "randint draws with replacement.",
    "randperm(n) has each of 0 to n - 1 once.",
)(reordered("drawn_with_replacement", lambda x, g: x[torch.randint(len(x), x.shape, generator=g)]))


@permute_dark_knowledge.hint(
    "All rows are in the same order.",
    "How many permutations do you draw for a batch?",
    "One for each row.",
)
def one_order_for_all(teacher, generator):
    order = torch.randperm(teacher.shape[-1] - 1, generator=generator)
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[order]]
    return permuted


permute_dark_knowledge.hint(
    "Some orders never occur: the others keep their order, as on a ring.",
    "However far a row is rolled, neighbours stay neighbours.",
    "torch.randperm gives every order the same chance.",
)(reordered("rolled_along", lambda x, g: x.roll(int(torch.randint(len(x), (1,), generator=g)))))


@permute_dark_knowledge.hint(
    "Some orders never occur: nearly all entries stay where they are.",
    "You exchange two entries of each row, and leave the others.",
    "Give every order the same chance, with torch.randperm.",
)
def two_exchanged(teacher, generator):
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        i, j = others[torch.randperm(len(others), generator=generator)[:2]].tolist()
        row[[i, j]] = row[[j, i]]
    return permuted


permute_dark_knowledge.hint(
    "Every call gives the same order: nothing is random.",
    "Reversed, or sorted, is just one order of many.",
    "Draw a permutation for each row, from the generator.",
)(reordered("turned_round", lambda x, g: x.flip(0)))

permute_dark_knowledge.hint(
    "Another generator gives the same order.",
    "Where do your random numbers come from, if not from it?",
    "Pass it on: torch.randperm(n, generator=generator).",
)(reordered("the_generator_ignored", lambda x, g: x[torch.randperm(len(x))]))


@permute_dark_knowledge.hint(
    "The order is the same for generators of one seed, whatever was drawn from them before.",
    "In training you would get the same permutation in every step. What resets the generator?",
    "Draw from the generator as it stands; do not seed it or make a new one.",
)
def begun_anew_each_time(teacher, generator):
    generator = torch.Generator().manual_seed(generator.initial_seed())
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[torch.randperm(len(others), generator=generator)]]
    return permuted


@permute_dark_knowledge.hint(
    "Afterwards the teacher's own logits are permuted.",
    "Whoever reads them next gets the permuted ones.",
    "Write into teacher.clone().",
)
def permuted_in_place(teacher, generator):
    for row in teacher:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[torch.randperm(len(others), generator=generator)]]
    return teacher


@permute_dark_knowledge.hint(
    "All entries of a row but the largest are the same.",
    "Their mean keeps only the sum: that is label smoothing of the row's own strength.",
    "Permute them instead: the entries stay, the places change.",
)
def spread_evenly(teacher, generator):
    largest, place = teacher.max(-1, keepdim=True)
    mean = (teacher.sum(-1, keepdim=True) - largest) / (teacher.shape[-1] - 1)
    return mean.expand_as(teacher).scatter(-1, place, largest)


@permute_dark_knowledge.answer
def row_by_row(teacher, generator):
    permuted = teacher.clone()
    for row in permuted:
        others = torch.tensor([c for c in range(len(row)) if c != row.argmax()])
        row[others] = row[others[torch.randperm(len(others), generator=generator)]]
    return permuted
