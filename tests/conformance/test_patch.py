"""Section P: PATCH, which carries the bytes."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.conftest import Configured, Embed
from tests.conformance.profiles import DEFAULT, HASTY
from tests.conftest import StartServer
from tests.support.tus import OCTETS, Tus, eventually, patching
from tests.support.wire import TIMEOUT, Answer, Connection

TEN = b"0123456789"

MUCH = 20_000_000
"""Bytes: more than a server swallows unasked, and more than the buffers between client and server hold."""


def assert_offset(tus: Tus, url: str, answer: Answer, offset: int) -> None:
    """tus 1.0.0: "The Server MUST acknowledge successful PATCH requests with the 204 No Content status. It MUST
    include the Upload-Offset header containing the new offset".
    """
    assert answer.status == 204
    assert answer["Upload-Offset"] == str(offset)
    assert tus.offset(url) == offset


def test_p1_bytes_move_the_offset(tus: Tus) -> None:
    url = tus.upload(10)
    answer = tus.patch(url, 0, b"01234")
    assert_offset(tus, url, answer, 5)
    assert answer.bodiless
    assert answer["Content-Type"] is None


def test_p2_the_rest_completes_the_upload(tus: Tus) -> None:
    url = tus.upload(10, body=b"01234")
    assert_offset(tus, url, tus.patch(url, 5, b"56789"), 10)
    assert tus.holds(url, TEN)


def test_p2_completion_is_told_once(embed: Embed) -> None:
    site = embed()
    url = site.tus.upload(10, body=b"01234")
    assert site.finished == []
    site.tus.patch(url, 5, b"56789")
    site.tus.patch(url, 10)
    assert [upload.offset for upload in site.finished] == [10]


@pytest.mark.parametrize("offset", [0, 4, 6, 10])
def test_p3_another_offset_is_a_conflict_and_changes_nothing(tus: Tus, offset: int) -> None:
    """tus 1.0.0: "If the offsets do not match, the Server MUST respond with the 409 Conflict status without
    modifying the upload resource".
    """
    url = tus.upload(10, body=b"01234")
    assert tus.patch(url, offset, b"xx").status == 409
    assert tus.offset(url) == 5
    tus.patch(url, 5, b"56789")
    assert tus.holds(url, TEN)


def test_p4_an_offset_is_needed(tus: Tus) -> None:
    url = tus.upload(10)
    assert tus.request("PATCH", url, {"Content-Type": OCTETS}, b"01234").status == 400
    assert tus.offset(url) == 0


@pytest.mark.parametrize("offset", ["-1", "abc", "5.0", "05", "", "+5"])
def test_p5_an_offset_is_written_in_digits_alone(tus: Tus, offset: str) -> None:
    """tus 1.0.0: "The value MUST be a non-negative integer"."""
    url = tus.upload(10, body=b"01234")
    assert tus.patch(url, offset, b"56789").status == 400
    assert tus.offset(url) == 5


def test_p6_a_type_is_needed(tus: Tus) -> None:
    """tus 1.0.0: "All PATCH requests MUST use Content-Type: application/offset+octet-stream, otherwise the
    Server SHOULD return a 415 Unsupported Media Type status".
    """
    url = tus.upload(10)
    assert tus.patch(url, 0, b"01234", {"Content-Type": None}).status == 415
    assert tus.offset(url) == 0


@pytest.mark.parametrize("media_type", ["text/plain", "application/octet-stream"])
def test_p7_another_type_is_refused(tus: Tus, media_type: str) -> None:
    url = tus.upload(10)
    assert tus.patch(url, 0, b"01234", {"Content-Type": media_type}).status == 415
    assert tus.offset(url) == 0


def test_p8_the_type_may_be_in_any_case(tus: Tus) -> None:
    """RFC 9110: "The type and subtype tokens are case-insensitive"."""
    url = tus.upload(10)
    answer = tus.patch(url, 0, b"01234", {"Content-Type": "Application/Offset+Octet-Stream"})
    assert_offset(tus, url, answer, 5)


def test_p9_the_type_may_have_parameters(tus: Tus) -> None:
    url = tus.upload(10)
    answer = tus.patch(url, 0, b"01234", {"Content-Type": f"{OCTETS}; charset=utf-8"})
    assert_offset(tus, url, answer, 5)


def test_p10_an_unknown_upload_is_not_found(tus: Tus) -> None:
    """tus 1.0.0: "If the Server receives a PATCH request against a non-existent resource it SHOULD return a 404"."""
    assert tus.patch(tus.child("0123456789abcdef"), 0, b"01234").status == 404


def test_p11_the_collection_takes_no_bytes(tus: Tus) -> None:
    assert tus.patch("", 0, b"01234").status in (404, 405)


def test_p12_more_than_is_missing_is_refused_before_it_is_read(tus: Tus) -> None:
    url = tus.upload(10)
    assert tus.patch(url, 0, TEN + b"beyond").status == 413
    with tus.begin_patch(url, 0, announced=MUCH) as connection:  # and not one byte of it
        assert connection.answer().status == 413
    assert tus.offset(url) == 0


def test_p13_a_chunked_body_that_runs_over_does_not_complete_the_upload(tus: Tus) -> None:
    """A client told 413 must not have finished the upload by that very request."""
    url = tus.upload(10)
    assert tus.patch(url, 0, [b"01234", b"56789", b"beyond"]).status == 413
    assert tus.offset(url) < 10


def test_p13_what_was_refused_is_not_told_as_finished(embed: Embed) -> None:
    site = embed()
    url = site.tus.upload(10)
    assert site.tus.patch(url, 0, [b"01234", b"56789", b"beyond"]).status == 413
    assert site.finished == []
    assert site.tus.resume(url, TEN)
    assert [upload.offset for upload in site.finished] == [10]


def test_p14_a_body_may_be_chunked(tus: Tus) -> None:
    url = tus.upload(10)
    assert_offset(tus, url, tus.patch(url, 0, [b"01", b"234"]), 5)
    assert_offset(tus, url, tus.patch(url, 5, [b"56789"]), 10)
    assert tus.holds(url, TEN)


def test_p15_an_empty_body_moves_nothing(tus: Tus) -> None:
    url = tus.upload(10, body=b"01234")
    assert_offset(tus, url, tus.patch(url, 5), 5)


def test_p16_an_empty_body_at_the_end_is_accepted_again(tus: Tus) -> None:
    """So a client that lost the last answer learns that it is done."""
    url = tus.complete(TEN)
    assert_offset(tus, url, tus.patch(url, 10), 10)


def test_p17_bytes_beyond_the_end_are_refused(tus: Tus) -> None:
    url = tus.complete(TEN)
    assert tus.patch(url, 10, b"more").status == 413
    assert tus.holds(url, TEN)


def test_p18_a_complete_upload_has_one_offset_too(tus: Tus) -> None:
    url = tus.complete(TEN)
    assert tus.patch(url, 5, b"56789").status == 409
    assert tus.holds(url, TEN)


def test_p19_a_known_length_does_not_change(tus: Tus) -> None:
    """tus 1.0.0: "Once set the length MUST NOT be changed"."""
    url = tus.upload(10)
    assert tus.patch(url, 0, b"01234", {"Upload-Length": "20"}).status == 400
    answer = tus.head(url)
    assert (answer["Upload-Offset"], answer["Upload-Length"]) == ("0", "10")


def test_p20_a_known_length_may_be_said_again(tus: Tus) -> None:
    url = tus.upload(10)
    assert_offset(tus, url, tus.patch(url, 0, b"01234", {"Upload-Length": "10"}), 5)


def test_p21_deferring_on_patch_is_ignored(tus: Tus) -> None:
    url = tus.upload(10)
    assert_offset(tus, url, tus.patch(url, 0, b"01234", {"Upload-Defer-Length": "1"}), 5)
    assert tus.head(url)["Upload-Length"] == "10"


def test_p22_a_client_that_left_goes_on_where_it_was(tus: Tus) -> None:
    """tus 1.0.0: "The Server SHOULD always attempt to store as much of the received data as possible"."""
    data = bytes(range(250)) * 400
    url = tus.upload(len(data))
    for until in (30_000, 70_000):
        offset = tus.offset(url)
        tus.begin_patch(url, offset, len(data) - offset, data[offset:until]).close()
        assert tus.reaches(url, until)
    assert tus.resume(url, data)
    assert tus.holds(url, data)


@pytest.mark.slow  # the timeout, and then the time in which a client may read what it is told
def test_p23_a_silent_client_is_cut_off_and_its_bytes_are_kept(configured: Configured) -> None:
    """tus 1.0.0: "Timeouts SHOULD be handled by the Server by closing the connection to the Client"."""
    tus, _ = configured(HASTY)
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, b"01234") as connection:
        assert connection.ends() != 204
        assert tus.offset(url) == 5
        assert_offset(tus, url, tus.patch(url, 5, b"56789"), 10)
        assert connection.closes()
    assert tus.holds(url, TEN)


def test_p24_of_three_writers_at_once_one_wins(tus: Tus) -> None:
    bodies = [bytes([letter]) * 1_000_000 for letter in b"abc"]
    url = tus.upload(1_000_000)
    together = threading.Barrier(len(bodies))

    def write(body: bytes) -> int:
        with tus.begin_patch(url, 0, len(body)) as connection:
            together.wait()
            connection.send_until_answered(body)
            return connection.answer().status

    with ThreadPoolExecutor(len(bodies)) as threads:
        statuses = list(threads.map(write, bodies))
    assert statuses.count(204) == 1
    assert set(statuses) <= {204, 409, 423}
    assert tus.holds(url, bodies[statuses.index(204)])


def test_p25_a_stalled_patch_gives_way_and_its_client_may_retry(tus: Tus) -> None:
    """The client comes back before the server knows that its old connection is dead."""
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, b"01234") as stalled:
        assert eventually(lambda: tus.head(url)["Upload-Offset"] == "5")
        assert tus.resume(url, TEN)
        answer = stalled.answer()
        assert answer.status in (423, 204)
        assert answer.status == 423 or answer["Upload-Offset"] in ("5", "10")
    assert tus.holds(url, TEN)


CHUNKS = [bytes([number]) * 5000 for number in range(20)]


def test_p26_twenty_pipelined_chunks_arrive_in_order(tus: Tus) -> None:
    url = tus.upload(100_000)
    with tus.connect(url) as connection:
        for number, body in enumerate(CHUNKS):
            tus.ask(connection, "PATCH", url, patching(number * 5000), body)
        answers = [connection.answer() for _ in CHUNKS]
    assert [answer["Upload-Offset"] for answer in answers] == [str(end * 5000) for end in range(1, 21)]
    assert tus.holds(url, b"".join(CHUNKS))


def test_p26_the_next_chunk_may_follow_at_once(tus: Tus) -> None:
    """Once the answer is sent the upload is free: no 423 for a client that is quick."""
    url = tus.upload(100_000)
    statuses = [tus.patch(url, number * 5000, body).status for number, body in enumerate(CHUNKS)]
    assert statuses == [204] * 20
    if tus.downloads:
        assert hashlib.md5(tus.get(url).body).digest() == hashlib.md5(b"".join(CHUNKS)).digest()


def override(tus: Tus, actual: str, method: str, offset: int = 0) -> tuple[str, Answer]:
    url = tus.upload(10)
    return url, tus.request(actual, url, {"X-HTTP-Method-Override": method, **patching(offset)}, b"01234")


def test_p27_post_may_stand_for_patch(tus: Tus) -> None:
    """tus 1.0.0: "The X-HTTP-Method-Override request header MUST be a string which MUST be interpreted as the
    request's method by the Server, if the header is presented. The actual method of the request MUST be
    ignored".
    """
    url, answer = override(tus, "POST", "PATCH")
    assert_offset(tus, url, answer, 5)


@pytest.mark.parametrize("actual", ["PUT", "GET"])
def test_p28_any_method_may_stand_for_patch(tus: Tus, actual: str) -> None:
    url, answer = override(tus, actual, "PATCH")
    assert_offset(tus, url, answer, 5)


def test_p29_the_overriding_method_may_be_in_lower_case(tus: Tus) -> None:
    url, answer = override(tus, "POST", "patch")
    assert_offset(tus, url, answer, 5)


def test_p30_an_overriding_method_must_mean_something(tus: Tus) -> None:
    url, answer = override(tus, "POST", "FOO")
    assert answer.status == 405
    assert tus.offset(url) == 0


DOOMED: dict[int, Callable[[Tus], tuple[str, int]]] = {
    404: lambda tus: (tus.child("0123456789abcdef"), 0),
    409: lambda tus: (tus.upload(1000), 7),
    413: lambda tus: (tus.upload(10), 0),
}
"""Status → upload and offset of a PATCH of 1000 bytes that gets it."""


@pytest.mark.parametrize("status", DOOMED)
def test_p31_a_doomed_client_is_not_asked_for_its_body(tus: Tus, status: int) -> None:
    """RFC 9110: "respond with an immediate final status code … instead of" 100, which is what Expect is for."""
    url, offset = DOOMED[status](tus)
    with tus.begin_patch(url, offset, 1000, headers={"Expect": "100-continue"}) as connection:
        answer = connection.answer()
    assert answer.status == status
    assert 100 not in answer.interim


def test_p31_a_welcome_client_is_asked_for_its_body(tus: Tus) -> None:
    """The other side of it: nobody waits for ever."""
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, headers={"Expect": "100-continue"}) as connection:
        assert eventually(connection.readable), "no 100 Continue"
        connection.send(TEN)
        answer = connection.answer()
    assert 100 in answer.interim
    assert_offset(tus, url, answer, 10)


@pytest.mark.parametrize("status", DOOMED)
def test_p32_an_early_refusal_reaches_a_client_that_is_still_sending(tus: Tus, status: int) -> None:
    """A connection that is reset at once takes the answer with it, and the client tries again for nothing."""
    url, offset = (tus.upload(MUCH), 7) if status == 409 else DOOMED[status](tus)
    with tus.begin_patch(url, offset, MUCH) as connection:
        sent = connection.send_until_answered(bytes(MUCH))
        assert connection.answer().status == status
        if sent < MUCH:
            connection.finish_sending()
            assert connection.closes()
    tus.delete(url)


@pytest.mark.parametrize("length", [2**53 - 1, 2**53 + 1, 2**63 - 1])
def test_p33_a_large_length_is_kept_exactly_or_refused(tus: Tus, length: int) -> None:
    """A server that reserves the space may say that there is not so much."""
    answer = tus.create(length)
    if answer.status not in (413, 507):
        assert answer.status == 201
        assert tus.head(tus.located(answer))["Upload-Length"] == str(length)


@pytest.mark.parametrize("length", [2**53 - 1, 2**53 + 1, 2**63 - 1])
def test_p33_the_largest_offsets_are_read_exactly(tus: Tus, length: int) -> None:
    """An offset that cannot be is a conflict, and no trouble."""
    url = tus.upload(10)
    assert tus.patch(url, length, b"01234").status == 409


def test_p34_a_coded_body_is_refused_or_stored_as_it_is(tus: Tus) -> None:
    """Never unpacked: the offset counts the bytes that were sent."""
    packed = gzip.compress(TEN)
    url = tus.upload(len(packed))
    answer = tus.patch(url, 0, packed, {"Content-Encoding": "gzip"})
    if answer.status != 415:
        assert_offset(tus, url, answer, len(packed))
        assert tus.holds(url, packed)
    else:
        assert tus.offset(url) == 0


def test_p35_a_server_that_stops_keeps_the_bytes(start_server: StartServer, inside: None, exchanges: list[str]) -> None:
    data = bytes(range(250)) * 400
    server = start_server(*DEFAULT.options)
    tus = Tus(server.url, exchanges)
    url = tus.upload(len(data))
    with tus.slow_patch(url, data, pieces=400) as patch:
        kept = progress(tus, url)
        server.stop(TIMEOUT)  # a client that uploads must not hold it up
        assert patch.ends() in (503, 423, None)
    server.start()
    assert kept <= tus.offset(url) < len(data)
    assert tus.resume(url, data)
    assert tus.holds(url, data)


def test_p36_a_server_that_is_killed_keeps_what_it_told(
    start_server: StartServer, inside: None, exchanges: list[str]
) -> None:
    data = bytes(range(250)) * 400
    server = start_server()
    tus = Tus(server.url, exchanges)
    url = tus.upload(len(data))
    with tus.slow_patch(url, data, pieces=400):
        kept = progress(tus, url)
        server.kill()
    server.start()
    assert kept <= tus.offset(url) < len(data)
    assert tus.resume(url, data)
    assert tus.holds(url, data)


def progress(tus: Tus, url: str) -> int:
    """Wait until HEAD shows that a PATCH under way has moved; ours says so once a second."""
    assert eventually(lambda: tus.offset(url) > 0)
    return tus.offset(url)


# who may take over: what was told is binding, what nobody was told can be taken back ----------------------------------


@pytest.mark.parametrize("alive", [True, False])
def test_p37_a_patch_at_the_told_offset_takes_over(tus: Tus, alive: bool) -> None:
    data = bytes(range(250)) * 40
    url = tus.upload(len(data))
    with tus.begin_patch(url, 0, len(data), data[:4000]) as old:
        assert eventually(lambda: tus.offset(url) == 4000)
        if alive:
            assert old.send(b"?" * 1000)
        answer = tus.request("PATCH", url, patching(4000), data[4000:])
        assert (answer.status, answer["Upload-Offset"]) == (204, str(len(data)))
        assert old.ends() in (423, None)
    assert tus.holds(url, data)


@pytest.mark.parametrize("offset", [0, 3, 4, 6, 9, 10])
def test_p38_a_patch_at_another_offset_disturbs_nobody(tus: Tus, offset: int) -> None:
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, b"hello") as writer:
        assert eventually(lambda: tus.offset(url) == 5)
        answer = tus.patch(url, offset, b"x" * (10 - offset))
        assert (answer.status, answer["Upload-Offset"]) == (409, "5")
        assert writer.send(b"world")
        assert writer.answer().status == 204
    assert tus.holds(url, b"helloworld")


def test_p39_what_was_told_is_binding(tus: Tus) -> None:
    """To whomever it was told: in an answer, to a HEAD, or with a 409."""
    url = tus.upload(10, body=b"he")
    with tus.begin_patch(url, 2, 8, b"llo") as writer:
        assert eventually(lambda: tus.patch(url, 7)["Upload-Offset"] == "5")
        for offset in (0, 2):
            answer = tus.patch(url, offset, b"x" * (10 - offset))
            assert (answer.status, answer["Upload-Offset"]) == (409, "5")
        assert writer.send(b"world")
        assert writer.answer().status == 204
    assert tus.holds(url, b"helloworld")


def test_p40_what_nobody_was_told_can_be_taken_back(tus: Tus) -> None:
    """The old request went on for a while between HEAD and PATCH, and then broke off."""
    url = tus.upload(10)
    with tus.begin_patch(url, 0, 10, b"hel") as old:
        assert eventually(lambda: tus.offset(url) == 3)
        assert old.send(b"???")
    answer = tus.patch(url, 3, b"loworld")
    assert (answer.status, answer["Upload-Offset"]) == (204, "10")
    assert tus.holds(url, b"helloworld")


def test_p41_a_client_comes_back_while_its_old_request_still_arrives(tus: Tus) -> None:
    """Out of a proxy's buffer, say. For the clients of Java, Go, .NET, Swift and Dart a 409 would be the end."""
    data = bytes(range(250)) * 400
    url = tus.upload(len(data))
    with tus.slow_patch(url, data, pieces=500) as zombie:
        assert eventually(lambda: tus.offset(url) > 0)
        offset = tus.offset(url)
        answer = tus.patch(url, offset, data[offset:])
        assert answer.status == 204
        assert zombie.ends() in (423, None)
    assert tus.holds(url, data)


def test_p42_writers_that_take_turns_keep_what_was_told_and_come_back_later_each_time(tus: Tus) -> None:
    url = tus.upload(100)
    waits: list[int] = []
    old: Connection | None = None
    for turn in range(5):
        assert eventually(lambda turn=turn: tus.offset(url) == 10 * turn)  # type: ignore[misc]
        new = tus.begin_patch(url, 10 * turn, 100 - 10 * turn, b"0123456789")
        if old is not None:
            answer = old.answer()
            assert answer.status == 423
            waits.append(int(answer["Retry-After"] or "0"))
            old.close()
        old = new
    assert waits == sorted(set(waits))
    assert old is not None
    assert eventually(lambda: tus.offset(url) == 50)
    assert tus.patch(url, 50, b"0123456789" * 5).status == 204
    old.close()
    assert tus.holds(url, b"0123456789" * 10)
