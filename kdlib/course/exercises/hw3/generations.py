"""Homework 3, exercise 1: generations."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from kdlib.course.exercises import generations as diaries
from kdlib.course.grading.exercise import Answer, Ask, Draw, Exercise

generations = Exercise(
    "generations",
    "generations(build, train, count) gives the list of networks, the first trained on labels, each "
    "later one taught by the one before.",
    minutes=15,
)


@generations.holds("There are as many networks as asked for")
def as_many_networks_as_asked(ask: Ask, draw: Draw) -> None:
    for count in (1, 2, draw.integer(4, 6)):
        family = _family(ask, count, least=1)
        family.should(len(family.value) == count, f"a list of {_trained(count)}")


@generations.holds("Each starts from its own seed")
def each_has_its_own_seed(ask: Ask, draw: Draw) -> None:
    family = _family(ask, draw.integer(4, 5))
    born = {float(network["initial"]) for network in family.value}
    family.should(len(born) == len(family.value), "a different initial number in each of them")


@generations.holds("The first is taught by the labels")
def first_is_taught_by_labels(ask: Ask, draw: Draw) -> None:
    family = _family(ask, draw.integer(4, 5))
    first = family.value[0]
    by_labels = float(first["lessons"]) > 0 and float(first["taught_by"]) == 0
    family.should(by_labels, "the first of them to be taught_by 0, the labels")


@generations.holds("Each later one is taught by the one before it, when that has been trained")
def each_is_taught_by_its_predecessor(ask: Ask, draw: Draw) -> None:
    family = _family(ask, draw.integer(4, 5))
    for k, (teacher, student) in enumerate(itertools.pairwise(family.value), start=2):
        its_own = float(student["taught_by"]) == float(teacher["initial"])
        family.should(
            its_own and float(student["teacher_lessons"]) > 0,
            f"number {k} taught_by {float(teacher['initial']):.0f}, with teacher_lessons above 0",
        )


@generations.holds("Each is trained once, and then left alone")
def each_is_trained_once(ask: Ask, draw: Draw) -> None:
    family = _family(ask, draw.integer(4, 5))
    lessons = [float(network["lessons"]) for network in family.value]
    family.should(set(lessons) == {1.0}, "one lesson in each of them")


def _family(ask: Ask, count: int, least: int = 3) -> Answer:
    found = ask(build=diaries.build, train=diaries.train, count=count)
    family = found.value
    shown = isinstance(family, list) and all(isinstance(x, dict) for x in family)
    trained = (
        shown and len(family) >= least and "lessons" in family[-1] and family[-1]["lessons"] > 0
    )
    found.should(bool(trained), f"a list of {_trained(count)}")
    return found


def _trained(count: int) -> str:
    return f"{count} trained network{'s' if count > 1 else ''}"


def grown(
    name: str,
    seeds: Callable = lambda count: range(1, count),
    teacher: Callable = lambda networks, student: networks[-1],
) -> Callable:
    """A wrong answer: one more network for each of the ``seeds``, each taught by this ``teacher``."""

    def answer(build, train, count):
        networks = [build(0)]
        train(networks[0], None)
        for seed in seeds(count):
            student = build(seed)
            train(student, teacher(networks, student))
            networks.append(student)
        return networks

    answer.__name__ = name
    return answer


generations.hint(
    "There is one network too many.",
    "count says how many networks there are, the first one included.",
    "After the first, count - 1 are left to be born again.",
)(grown("one_too_many", lambda count: range(1, count + 1)))

generations.hint(
    "There is one network too few.",
    "Where does your range begin, and is its end included?",
    "range(1, count) has count - 1 numbers: those that come after the first network.",
)(grown("one_too_few", lambda count: range(1, count - 1)))

generations.hint(
    "All networks begin with the same weights.",
    "What do you give to build? Generations that start alike hardly differ, and together "
    "they are hardly better than one.",
    "Give every network its own seed: its number will do.",
)(grown("every_generation_begins_alike", lambda count: [0] * (count - 1)))


@generations.hint(
    "Your first network has a teacher. Who taught that one?",
    "A network fresh from build knows nothing that it could teach.",
    "Train the first network with None in the teacher's place.",
)
def an_untrained_teacher_first(build, train, count):
    teacher, networks = build(0), []
    for seed in range(1, count + 1):
        student = build(seed)
        train(student, teacher)
        networks.append(student)
        teacher = student
    return networks


@generations.hint(
    "The first network of your list was taught by another network.",
    "Is the one that learned from labels in your list?",
    "It is the first generation: it counts, and comes first.",
)
def only_the_born_again(build, train, count):
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count + 1):
        networks.append(build(seed))
        train(networks[-1], networks[-2])
    return networks[1:]


generations.hint(
    "From the third network on the teacher is the wrong one.",
    "Which network do you pass to train as the teacher: the first, or the one just before?",
    "networks[-1], before the new one joins the list; or set teacher = student once it is trained.",
)(grown("all_taught_by_the_first", teacher=lambda networks, student: networks[0]))


@generations.hint(
    "All your networks are taught by labels: they are independent, not generations.",
    "What is the second argument of train for?",
    "Only the first gets None there; every other one gets the network before it.",
)
def all_taught_by_labels(build, train, count):
    networks = []
    for seed in range(count):
        networks.append(build(seed))
        train(networks[-1], None)
    return networks


generations.hint(
    "Your later networks are their own teachers: each is taught by its own initial number.",
    "Which network is last in your list when you call train? Its loss against itself is 0.",
    "Choose the teacher before the new network joins the list.",
)(grown("taught_by_itself", teacher=lambda networks, student: student))


@generations.hint(
    "All entries of your list are the same: is it one network, many times?",
    "A second name for a network is not a copy. What happens to the teacher when the student gets new "
    "weights?",
    "Let build make a new network for every generation, and leave the old one as it is.",
)
def teacher_and_student_are_one(build, train, count):
    student = build(0)
    train(student, None)
    networks = [student]
    for seed in range(1, count):
        teacher = student
        student.load_state_dict(build(seed).state_dict())
        train(student, teacher)
        networks.append(student)
    return networks


@generations.hint(
    "All entries of your list are the same, and it was trained again and again.",
    "How often do you call build?",
    "Call it inside the loop, with a new seed: a born-again network begins from nothing.",
)
def one_network_for_all(build, train, count):
    network = build(0)
    train(network, None)
    networks = [network]
    for _ in range(1, count):
        train(network, networks[-1])
        networks.append(network)
    return networks


@generations.hint(
    "Your later networks begin where their teachers ended, lessons included.",
    "Born again means from nothing: only the teacher's predictions are handed on, not its weights.",
    "Take a new network from build instead of a copy of the teacher.",
)
def begun_from_the_teachers_weights(build, train, count):
    import copy

    networks = [build(0)]
    train(networks[0], None)
    for _ in range(1, count):
        student = copy.deepcopy(networks[-1])
        train(student, networks[-1])
        networks.append(student)
    return networks


@generations.hint(
    "Each network had several lessons.",
    "One call of train is a whole training, with all its epochs.",
    "Call it once for each network.",
)
def trained_several_times(build, train, count):
    networks, teacher = [], None
    for seed in range(count):
        student = build(seed)
        for _ in range(3):
            train(student, teacher)
        networks.append(student)
        teacher = student
    return networks


@generations.hint(
    "Your later networks had two lessons: the last from the teacher. Who gave the first?",
    "A network that is born again learns from its teacher alone.",
    "Only the first network is trained on labels: train(network, None) once in all.",
)
def labels_first_then_the_teacher(build, train, count):
    networks = []
    for seed in range(count):
        student = build(seed)
        train(student, None)
        if networks:
            train(student, networks[-1])
        networks.append(student)
    return networks


@generations.hint(
    "Your teachers are the right ones, but none of them had learned anything when it taught.",
    "build gives a new network, even for a seed that it was given before. And in which order do you "
    "train?",
    "Teach with the trained network itself, the last in the list, oldest first.",
)
def untrained_teachers(build, train, count):
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count):
        student = build(seed)
        train(student, build(seed - 1))
        networks.append(student)
    return networks


@generations.hint(
    "Your first network was never trained, but taught all the same.",
    "What does a list of one network look like? Who learns from labels?",
    "train(networks[0], None), before the others come.",
)
def first_never_trained(build, train, count):
    networks = [build(0)]
    for seed in range(1, count):
        student = build(seed)
        train(student, networks[-1])
        networks.append(student)
    return networks


@generations.hint(
    "Your list begins with the last generation.",
    "The network taught by labels should come first.",
    "append puts a new one at the end.",
)
def newest_first(build, train, count):
    networks, teacher = [], None
    for seed in range(count):
        student = build(seed)
        train(student, teacher)
        networks.insert(0, student)
        teacher = student
    return networks


@generations.hint(
    "You return one network.",
    "The ensemble will need all generations.",
    "Collect them in a list, and return the list.",
)
def only_the_last(build, train, count):
    teacher = None
    for seed in range(count):
        student = build(seed)
        train(student, teacher)
        teacher = student
    return student


@generations.hint(
    "Your last network was never trained.",
    "Which of its two arguments does train change?",
    "The student comes first, its teacher second.",
)
def student_and_teacher_swapped(build, train, count):
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count):
        student = build(seed)
        train(networks[-1], student)
        networks.append(student)
    return networks


@generations.answer
def a_loop(build, train, count):
    networks = [build(0)]
    train(networks[0], None)
    for seed in range(1, count):
        student = build(seed)
        train(student, networks[-1])
        networks.append(student)
    return networks
