from fednnunet.wording import counted


def test_one_thing_is_singular_and_none_or_several_are_not() -> None:
    assert [counted(number, "CPU core") for number in (0, 1, 2)] == ["0 CPU cores", "1 CPU core", "2 CPU cores"]
