"""Messages of the exception tree."""

from taicang.errors import UnknownName


def test_an_unknown_name_shows_the_nearest_or_all():
    near = str(UnknownName("fruit", "apple-x", ["Apple", "quince"]))
    assert near.endswith("; did you mean apple?; one of Apple, quince")
    assert str(UnknownName("fruit", "xyz", ["Apple", "pear"])).endswith("; one of Apple, pear")
    many = [f"name-{i}" for i in range(50)]
    assert "; the nearest are name-" in str(UnknownName("fruit", "xqz", many))
    assert str(UnknownName("fruit", "nam-7", many)).endswith("?")
    assert str(UnknownName("fruit", "me", [])) == "unknown fruit 'me'"
