from attnvis.errors import in_one_line


def test_an_error_is_one_line_of_at_most_so_many_characters():
    assert in_one_line(ValueError("two\n lines,\tof  any length")) == "two lines, of any length"
    assert in_one_line(ValueError("two\n lines"), most=5) == "two l"


def test_an_error_that_says_nothing_goes_by_its_name():
    assert in_one_line(MemoryError()) == "MemoryError"
    assert in_one_line(EOFError(" \n"), most=80) == "EOFError"
