"""Every module's docstring is complete, its example is a valid task, and the reference is up to date."""

from pathlib import Path

import msgspec
import pytest
import yaml

from fleet.modules.reference import page, reference
from fleet.modules.registry import MODULES, load

REFERENCE = Path(__file__).parents[2] / "docs" / "modules.md"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_example_is_a_valid_task(name):
    (task,) = yaml.safe_load(page(name).example)
    assert task.keys() == {"name", load(name).name}
    arguments = {k: v for k, v in task[load(name).name].items() if not (isinstance(v, str) and "{{" in v)}
    required = {field.name for field in msgspec.structs.fields(load(name).args) if field.required}
    templated = dict.fromkeys(required - arguments.keys(), "x")
    msgspec.convert({**templated, **arguments}, load(name).args)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_argument_is_documented(name):
    documented = {word for names in page(name).arguments for word in names.split(", ")}
    assert documented == {field.encode_name for field in msgspec.structs.fields(load(name).args)}


def test_the_reference_is_up_to_date():
    stale = "run: python -m fleet.modules.reference > docs/modules.md"
    assert REFERENCE.read_text(encoding="utf-8") == reference(), stale
