"""Options are spelled once: flags and Python arguments derive from them; --help lists what a method takes."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from typer.main import get_command

import fsgen
from fsgen import registry
from fsgen.cli.app import app
from fsgen.training.run_options import AdaptOptions, RunConfig, RunOptions, TrainOptions

KINDS = {"adapt": AdaptOptions, "train": TrainOptions}
METHODS = {name: dataclasses.fields(registry.method(name).Options) for name in registry.methods()}
FROM_SCRATCH = {name for name in registry.methods() if not registry.method(name).adapts}


def flag_of(name: str, method: str = "") -> str:
    return "--" + "-".join(filter(None, [method, name.rstrip("_").replace("_", "-")]))


def flags_of(*methods: str) -> set[str]:
    return {flag_of(field.name, method) for method in methods for field in METHODS[method]}


ALL = flags_of(*METHODS)


def shown(cli, *arguments: str) -> str:
    """What --help prints, and exits with 0."""
    result = cli(*arguments)
    assert result.code == 0 and result.err == ""
    return result.out


def listed(text: str) -> set[str]:
    """The flags of methods in the help ``text``."""
    return {flag for flag in ALL if f" {flag} " in text}


# ---- spelled once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", KINDS)
def test_each_option_is_a_flag_and_a_documented_argument(verb):
    command = get_command(app).commands[verb]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    function = getattr(fsgen, verb)
    arguments = inspect.signature(function).parameters
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in arguments.values())
    for field in dataclasses.fields(KINDS[verb]):
        assert flag_of(field.name) in flags
        assert arguments[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert arguments[field.name].default == field.default
        assert f"        {field.name}: {field.metadata['help']}" in function.__doc__
    own = set(arguments) - {field.name for field in dataclasses.fields(KINDS[verb])}
    assert all(f"        {name}: " in function.__doc__ for name in own)
    assert "OPTIONS" not in function.__doc__


@pytest.mark.parametrize("verb", KINDS)
def test_each_option_of_a_method_is_a_flag(verb):
    flags = {flag for parameter in get_command(app).commands[verb].params for flag in parameter.opts}
    methods = METHODS if verb == "adapt" else FROM_SCRATCH
    assert flags & ALL == flags_of(*methods)


@pytest.mark.parametrize("verb", KINDS)
def test_a_configuration_holds_the_options(verb):
    """By the same names; ``fresh`` and the recipe hold the rest."""
    config = {field.name for field in dataclasses.fields(RunConfig)}
    elsewhere = {"batch", "lr"} | (
        {"family", "size", "grey", "classes", "width"} if verb == "train" else set()
    )
    assert {field.name for field in dataclasses.fields(KINDS[verb])} == (
        {field.name for field in dataclasses.fields(KINDS[verb]) if field.name in config} | elsewhere
    )


@pytest.mark.parametrize("verb", KINDS)
def test_unknown_arguments_are_type_errors(verb, tmp_path):
    with pytest.raises(TypeError, match="stepz"):
        getattr(fsgen, verb)(tmp_path, out=tmp_path / "run", stepz=3)
    with pytest.raises(TypeError, match="out"):
        getattr(fsgen, verb)(tmp_path)


def test_none_is_the_default():
    assert AdaptOptions.of({"seed": None, "steps": 3}) == AdaptOptions(steps=3)
    assert RunOptions.of({"fit": "pad"}).fit == "pad"


# ---- help --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "methods"),
    [
        (["--help"], ["ewc"]),
        (["-h"], ["ewc"]),
        (["--method", "bsa", "--help"], ["bsa"]),
        (["--help", "--method", "bsa"], ["bsa"]),
        (["--method=cdc", "--help"], ["cdc"]),
        (["--method", "ewc,diffaugment", "--help"], ["ewc", "diffaugment"]),
        (["--method", "finetune", "--help"], []),
        (["--help-all"], list(METHODS)),
        (["--method", "bsa", "--help-all"], list(METHODS)),
    ],
)
def test_help_of_adapt_lists_the_flags_of_the_chosen_methods(cli, arguments, methods):
    text = shown(cli, "adapt", *arguments)
    assert listed(text) == flags_of(*methods)
    assert all(f"Method {name}" in text for name in methods if METHODS[name])
    for field in dataclasses.fields(AdaptOptions):
        assert f" {flag_of(field.name)} " in text


@pytest.mark.parametrize(
    ("arguments", "methods"),
    [
        (["--help"], []),
        (["--method", "diffaugment", "--help"], ["diffaugment"]),
        (["--method", "ewc", "--help"], []),  # ewc needs a source
        (["--help-all"], FROM_SCRATCH),
    ],
)
def test_help_of_train_lists_no_flag_of_methods_that_need_a_source(cli, arguments, methods):
    text = shown(cli, "train", *arguments)
    assert listed(text) == flags_of(*methods)
    assert "--source" not in text and "--new-class" not in text
    for field in dataclasses.fields(TrainOptions):
        assert f" {flag_of(field.name)} " in text


@pytest.mark.parametrize("verb", KINDS)
@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_images_and_out_are_shown_as_required(cli, verb, flag):
    lines = shown(cli, verb, flag).splitlines()
    for name in ("IMAGES ", "--out "):
        (line,) = [line for line in lines if name in line and "<path>" in line]
        assert "required" in line
    assert sum("required" in line for line in lines) == 2


def test_help_once_does_not_change_the_next(cli):
    """The command is one object for the life of the process."""
    assert listed(shown(cli, "adapt", "--method", "bsa", "--help")) == flags_of("bsa")
    assert listed(shown(cli, "adapt", "--help")) == flags_of("ewc")
    assert listed(shown(cli, "adapt", "--help-all")) == ALL


def test_flags_of_other_methods_still_work(cli, tmp_path, tiny, drawings):
    """Hidden in --help, they are taken or refused as before."""
    run = ["adapt", drawings, "--out", "run", "--source", tiny, "--dry-run"]
    assert cli(*run, "--method", "freezed", "--freezed-stages", 1).code == 0
    refused = cli(*run, "--method", "ewc", "--freezed-stages", 1)
    assert refused.code == 2 and "freezed" in refused.err
