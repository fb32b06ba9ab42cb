"""The hooks of ``Method``: few, used or documented, each combined by a stack as declared."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from fsgen import registry
from fsgen.interfaces import Method
from fsgen.methods import stack as stacks
from fsgen.methods.stack import Stack

PAGE = Path(__file__).parents[2] / "docs" / "ADDING_A_METHOD.md"
HOOKS = [name for name, _ in inspect.getmembers(Method, inspect.isfunction) if not name.startswith("_")]
COMBINED = {name: hook.combined for name in HOOKS if hasattr(hook := getattr(Method, name), "combined")}
FOR_PLUGINS = {"recipe", "discriminator", "after_step"}  # used by one of fsgen's methods; documented
BUILT_IN = [kind for name in registry.METHODS if issubclass(kind := registry.method(name), Method)]


def test_there_are_at_most_13():
    """Inherited functions count as well."""
    assert len(HOOKS) <= 13


@pytest.mark.parametrize("hook", HOOKS)
def test_each_is_used_by_two_methods_or_documented(hook):
    users = [kind.name for kind in BUILT_IN if getattr(kind, hook) is not getattr(Method, hook)]
    assert users and (len(users) >= 2) == (hook not in FOR_PLUGINS), users
    page = PAGE.read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{hook}\((.*?)\)` \|", page, re.M)
    parameters = [name for name in inspect.signature(getattr(Method, hook)).parameters if name != "self"]
    assert row == ", ".join(parameters)
    if hook in FOR_PLUGINS:
        assert f"`{hook}`" in page


@pytest.mark.parametrize("hook", HOOKS)
def test_each_has_a_docstring(hook):
    assert getattr(Method, hook).__doc__


def test_a_stacks_hooks_are_generated():
    assert set(HOOKS) - set(COMBINED) == {"prepare_inputs"}  # by the finished model, without a stack
    assert set(COMBINED) <= set(vars(stacks._Combined)) and not set(COMBINED) & set(vars(Stack))


class Recorder(Method[Any]):
    """Records the calls of its hooks; each returns what its way of combining asks for."""

    calls: list[tuple[str, str, tuple]]

    def __init__(self, name: str, calls: list, agrees: bool = True) -> None:
        super().__init__()
        self.name, self.calls, self.agrees = name, calls, agrees


def _recorded(hook: str, how: str) -> Any:
    def call(self: Recorder, *args: Any) -> Any:
        self.calls.append((self.name, hook, args))
        returned = {"each": None, "all": self.agrees, "chained": f"{args[0]} {self.name}"}
        return returned.get(how, {"both": self.name, self.name: hook})

    return call


for _name, _how in COMBINED.items():
    setattr(Recorder, _name, _recorded(_name, _how))


@pytest.mark.parametrize("hook", COMBINED)
def test_a_stack_combines_each_hook_as_declared(hook):
    calls: list[tuple[str, str, tuple]] = []
    stack, how = Stack([Recorder("a", calls), Recorder("b", calls)]), COMBINED[hook]
    count = len(inspect.signature(getattr(Method, hook)).parameters) - 1
    args = tuple(f"argument {i}" for i in range(count))
    found = getattr(stack, hook)(*args)
    order, given = ["a", "b"], [args, args]
    if how == "chained":
        assert found == "argument 0 a b"
        given[1] = ("argument 0 a", *args[1:])
    elif how == "all":
        assert found is True
    elif how == "merged":
        assert found == {"a": hook, "b": hook, "both": "b"}
    elif how == "stored":
        order = ["b", "a"]  # what was added last is removed first
        assert found == {"a.a": hook, "a.both": "a", "b.b": hook, "b.both": "b"}
    else:
        assert how == "each" and found is None
    assert calls == [(name, hook, some) for name, some in zip(order, given, strict=True)]


@pytest.mark.parametrize("hook", COMBINED)
def test_a_stack_without_methods_changes_nothing(hook):
    given = [f"argument {i}" for i in range(len(inspect.signature(getattr(Method, hook)).parameters) - 1)]
    empty = {"each": None, "all": True, "chained": "argument 0"}
    assert getattr(Stack(), hook)(*given) == empty.get(COMBINED[hook], {})


def test_one_that_disagrees_is_enough():
    calls: list[tuple[str, str, tuple]] = []
    for first, second in ((True, False), (False, True), (False, False)):
        stack = Stack([Recorder("a", calls, first), Recorder("b", calls, second)])
        assert stack.trains(None, {}, "g", "weight") is False
