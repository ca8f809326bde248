from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_pkg.base.errors import DataError, UserError
from clip_pkg.study.class_texts import (
    CHECKOUT,
    ClassTexts,
    resolve_class_texts,
    write_template,
)

HIP = (
    "Acetabular Loosening", "Dislocation", "Fracture", "Good Place", "Infection", "Native Hip",
    "Spacer", "Stem Loosening", "Wear",
)  # fmt: skip


def resolve(
    classes: tuple[str, ...],
    file: Path | str | None = None,
    *,
    template: str | None = None,
    limit: int | None = None,
    search: tuple[Path, ...] = (),
) -> ClassTexts:
    return resolve_class_texts(
        classes,
        class_texts_file=None if file is None else str(file),
        text_template=template,
        prompts_per_class=limit,
        search_dirs=search,
    )


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.json"
    file.write_text(
        '{\n  // of the X-rays\n  "Wear": ["a worn  liner", " an eccentric head "],\n'
        '  "Spacer": "a cement spacer",\n}',
        encoding="utf-8-sig",
    )
    return file


def test_texts_from_a_file(texts: Path) -> None:
    found = resolve(("Spacer", "Wear"), texts)
    assert found.classes == ("Spacer", "Wear")
    assert found.prompts == (("a cement spacer",), ("a worn liner", "an eccentric head"))
    assert found.source == str(texts)
    assert found.notices == ()
    assert resolve(("Spacer", "Wear"), texts, limit=1).prompts[1] == ("a worn liner",)


def test_without_a_file_the_template_or_the_names_speak() -> None:
    names = ("Good_Place", "stem-loosening")
    plain = resolve(names)
    assert plain.prompts == (("Good Place",), ("stem loosening",))
    assert plain.notices == ("no class_texts_file: the class names are the texts",)
    made = resolve(names, template="an X-ray: {}.")
    assert made.prompts == (("an X-ray: Good Place.",), ("an X-ray: stem loosening.",))
    assert "all texts come from text_template" in made.notices[0]
    assert resolve(("-", "a")).prompts == (("-",), ("a",))


def test_classes_without_text_are_errors_with_the_nearest_key(texts: Path) -> None:
    with pytest.raises(DataError) as caught:
        resolve(("Spacers", "wear", "Fracture"), texts)
    message = str(caught.value)
    assert message.startswith(f"3 problems in {texts}:")
    assert "class 'Spacers' has no text; the file has 'Spacer'" in message
    assert "class 'wear' has no text; the file has 'Wear'" in message
    assert "no text for Fracture; `" in message


def test_template_serves_classes_that_the_file_lacks(texts: Path) -> None:
    found = resolve(("Fracture", "Spacer", "Wear"), texts, template="a hip with {}")
    assert found.prompts[0] == ("a hip with Fracture",)
    assert "has no Fracture" in found.notices[0]


def test_keys_without_images_are_mentioned(texts: Path) -> None:
    texts.write_text('{"a": "one", "b": "two", "c": "three"}')
    assert resolve(("a", "b"), texts).notices == (
        f"{texts}: no images of c; their texts are not used",
    )


def test_names_are_compared_in_one_unicode_form(texts: Path) -> None:
    texts.write_text(json.dumps({"cafe\u0301 ": "one", "b": "two"}))
    assert resolve(("b", "caf\u00e9"), texts).prompts == (("two",), ("one",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": "", "b": "x"}', "line 1: class 'a' has an empty text"),
        (b'{"a": [], "b": "x"}', "class 'a' has an empty text or list"),
        (b'{"a": ["x", ""], "b": "x"}', "class 'a' has an empty text or list"),
        (b'{"a": 3, "b": "x"}', "class 'a' needs a text or a list of texts"),
        (b'{"a": "x", "b": "y", "a": "z"}', "texts.json:1"),
        ('{"e\u0301": "x", "\u00e9": "y"}'.encode(), "class 'é' occurs in two spellings"),
        (b'{"a": "x" "b": "y"}', "texts.json:1"),
        (b'["a", "b"]', "must be an object"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b'{"a": "The  same", "b": ["the same"]}', "classes a, b have the same text 'the same'"),
        (b'{"a": ["x", "y"], "b": ["y", "X"]}', "cannot be distinguished"),
    ],
)
def test_mistakes_in_the_file(content: bytes, reason: str, texts: Path) -> None:
    texts.write_bytes(content)
    with pytest.raises(DataError) as caught:
        resolve(("a", "b"), texts)
    assert reason in str(caught.value)
    assert str(texts) in str(caught.value)


def test_where_a_file_is_looked_for(tmp_path: Path) -> None:
    config, work = tmp_path / "config", tmp_path / "work"
    places = [config, work, config / "class_texts", work / "class_texts"]
    for number, place in reversed(list(enumerate(places))):
        place.mkdir(parents=True, exist_ok=True)
        (place / "t.json").write_text(json.dumps({"a": f"from {number}", "b": "b"}))
        found = resolve(("a", "b"), "t.json", search=(config, work))
        assert found.prompts[0] == (f"from {number}",)
        assert found.source == str(place / "t.json")
    with pytest.raises(DataError) as caught:
        resolve(("a", "b"), "none.json", search=(config, work))
    for place in [*places, CHECKOUT / "class_texts"]:
        assert str(place / "none.json") in str(caught.value)
    with pytest.raises(DataError, match=f"searched {tmp_path / 'none.json'}$"):
        resolve(("a", "b"), tmp_path / "none.json", search=(config, work))


def test_impossible_file_names_are_not_found(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(DataError, match="was not found"):
            resolve(("a", "b"), name, search=(tmp_path,))
    with pytest.raises(DataError, match="cannot be written"):
        write_template(("a",), tmp_path / ("x" * 5000), "{}")


def test_hip_texts_come_with_the_checkout() -> None:
    found = resolve(HIP, "class_texts_hip_prosthesis.json")
    assert found.notices == ()
    assert all(3 <= len(prompts) <= 5 for prompts in found.prompts)
    everything = [text for prompts in found.prompts for text in prompts]
    assert len(set(everything)) == len(everything)
    assert all(6 <= len(text.split()) < 60 for text in everything)


def test_class_texts_survive_json(texts: Path) -> None:
    found = resolve(("Spacer", "Wear"), texts)
    assert ClassTexts.from_json(json.loads(json.dumps(found.to_json()))) == found
    for wrong in (
        {},
        {"schema_version": 1},
        {**found.to_json(), "texts": 3},
        {"schema_version": 9},
    ):
        with pytest.raises(DataError, match="class texts"):
            ClassTexts.from_json(wrong)


def test_template_file_can_be_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "new" / "texts.json"
    write_template(("Good_Place", "股骨"), path, "an X-ray of {}")
    assert resolve(("Good_Place", "股骨"), path).prompts == (
        ("an X-ray of Good Place",), ("an X-ray of 股骨",),
    )  # fmt: skip
    before = path.read_bytes()
    with pytest.raises(DataError, match="already exists"):
        write_template(("a",), path, "{}")
    assert path.read_bytes() == before
    with pytest.raises(DataError, match="once, where the class name goes"):
        write_template(("a",), tmp_path / "x.json", "no place")
    with pytest.raises(UserError, match="not a folder"):
        write_template(("a",), path / "below a file.json", "{}")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.none(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=3)),
        max_size=4,
    )
)
def test_any_mapping_gives_texts_or_sentences(texts: Path, value: dict) -> None:
    texts.write_text(json.dumps(value), encoding="utf-8")
    classes = tuple(sorted(value)) or ("a",)
    try:
        found = resolve(classes, texts)
    except DataError:
        return
    assert found.classes == classes
    assert all(prompts and all(text.strip() for text in prompts) for prompts in found.prompts)
