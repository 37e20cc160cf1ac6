from __future__ import annotations

import os
import re

import pytest

from tusserver.service.ids import RandomIds, checked


def test_random_ids_are_hexadecimal_and_none_comes_twice() -> None:
    new_id = RandomIds()
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{32}", upload_id) for upload_id in ids)


def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    new_id = RandomIds()
    new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() != new_id()


@pytest.mark.parametrize("name", ["a", "A-z_09", "x" * 128])
def test_an_id_of_an_app_is_taken_as_it_is(name: str) -> None:
    assert checked(lambda: name)() == name


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.b", "ä", "x" * 129, "a\n"])
def test_what_is_no_id_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"^new_id gave .* an id has 1 to 128 letters, digits, - and _$") as refused:
        checked(lambda: name)()
    assert repr(name) in str(refused.value)
