"""Messages of the exception tree."""

import re

import pytest

from taicang.errors import UnknownName


def test_an_unknown_name_shows_the_nearest_or_all():
    near = str(UnknownName("fruit", "apple-x", ["Apple", "quince"]))
    assert near.endswith("; did you mean apple?; one of Apple, quince")
    assert str(UnknownName("fruit", "xyz", ["Apple", "pear"])).endswith("; one of Apple, pear")
    assert str(UnknownName("fruit", "pair", ["pear", "pear"])).endswith("; did you mean pear?; one of pear")
    sizes = ["ring-4b", "ring-32b", "ring-235b-a22b", "bring-235b"]
    assert "did you mean ring-235b-a22b or" in str(UnknownName("fruit", "Ring-235b", sizes))
    many = [f"name-{i}" for i in range(50)]
    assert "; the nearest are name-" in str(UnknownName("fruit", "xqz", many))
    assert str(UnknownName("fruit", "nam-7", many)).endswith("?")
    assert str(UnknownName("fruit", "me", [])) == "unknown fruit 'me'"


@pytest.mark.parametrize(
    "words",
    ["infer", "infer llama-3.1-8b", "search x", "compare x", "train x", "fabric", "centre", "replay x", "trace info"],
)
def test_what_is_missing_comes_with_where_its_names_are(words, taicang):
    code, _, err = taicang(*words.split())
    assert code == 2
    if found := re.search(r"Missing \w+ '.*?'\. taicang (\w+ list(?: --kind \w+)?) name", err):
        assert taicang(*found[1].split())[0] == 0
    else:
        assert words == "trace info"
