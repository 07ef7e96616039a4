"""Messages of the exception tree."""

from taicang.errors import UnknownName


def test_an_unknown_name_shows_the_nearest_or_all():
    assert str(UnknownName("fruit", "apple-x", ["Apple", "quince"])).endswith("did you mean apple?")
    assert str(UnknownName("fruit", "xyz", ["Apple", "pear"])).endswith("; one of Apple, pear")
    many = [f"name-{i}" for i in range(50)]
    assert "; the nearest are name-" in str(UnknownName("fruit", "xqz", many))
    assert str(UnknownName("fruit", "me", [])) == "unknown fruit 'me'"
