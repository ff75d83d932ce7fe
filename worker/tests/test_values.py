"""Every rule about values, in both directions, through a real worker."""

import base64
import os

import pytest


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("None", None),
        ("True", True),
        ("[1, 2.5, 'é', '\\u2028']", [1, 2.5, "é", "\u2028"]),
        ("2**64", 2**64),
        ("{'a': {'b': [()]}}", {"a": {"b": [[]]}}),
        ("{1: 'a', None: 'b', True: 'c', 1.5: 'd'}", {"1": "c", "null": "b", "1.5": "d"}),
        ("Pair(1, [Pair(2, 3)])", [1, [[2, 3]]]),
        ("ordered()", {"b": 1, "a": 2}),
        ("{3, 1, 2}", [1, 2, 3]),
        ("frozenset({'x'})", ["x"]),
        ("len({1, 'a'})", 2),
        ("Page(1, Page(2, (3,)))", {"number": 1, "content": {"number": 2, "content": [3]}}),
        ("[Colour.RED, Level.HIGH, Tag.NEW]", ["red", 3, "new"]),
        ("{Colour.RED: 1, Level.HIGH: 2, Tag.NEW: 3}", {"red": 1, "3": 2, "new": 3}),
        ("{Path('/a'): 1, uuid.UUID(int=1): 2}", {"/a": 1, "00000000-0000-0000-0000-000000000001": 2}),
        ("known()", ["2024-01-02", "2024-01-02T03:04:05", "1.50", "00000000-0000-0000-0000-000000000001"]),
        ("Path('/outside/of/scratch')", "/outside/of/scratch"),
        ("Model()", {"dumped": "/x/y"}),
        ("[Scalar(1.5), Scalar('text')]", [1.5, "text"]),
        ("Scalar(float('nan'))", None),
        ("Array()", [[1, None], [3, 4]]),
        (
            "{'n': float('nan'), 'i': [float('-inf')], 'd': Page(1)}",
            {"n": None, "i": [None], "d": {"number": 1, "content": None}},
        ),
        ("'bad \\udc80 good \\ud83d\\ude00'", "bad \ufffd good 😀"),
        ("b'abc'", {"$bytes": base64.b64encode(b"abc").decode()}),
        ("[bytearray(b'x'), memoryview(b'y')]", [{"$bytes": "eA=="}, {"$bytes": "eQ=="}]),
    ],
)
def test_a_result(general, code, value):
    end = general.result(code)
    assert end["t"] == "done", end
    assert end["value"] == value
    assert end["files"] is False


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("{'pages': [1, 2, 3, {'image': 1j}]}", "`result.pages[3].image` of type `complex` cannot be sent"),
        ("[object()]", "`result[0]` of type `object` cannot be sent"),
        ("{'a b': {1}, 'c': [Page(1, object)]}", "`result.c[0].content` of type `type` cannot be sent"),
        ("{'a b': [1j]}", '`result["a b"][0]` of type `complex` cannot be sent'),
        ("{'k': {(1, 2): 3}}", "`result.k` has a key of type `tuple`, which is no JSON key"),
        ("(x for x in 'ab')", "`result` of type `generator` cannot be sent"),
        ("circle()", "`result` is nested too deeply, or contains itself"),
        ("[BrokenDto()]", "`result[0]` of type `general.BrokenDto` cannot be sent: OSError: disk full"),
        ("[Dto(path='/no/such/file')]", "there is no file `/no/such/file`"),
    ],
)
def test_what_has_no_form_is_named(general, code, message):
    end = general.result(code)
    assert (end["t"], end["kind"]) == ("error", "unserialisable"), end
    assert message in end["message"]
    assert general.result("'still here'")["value"] == "still here"


def test_a_chunk_without_form_ends_the_stream(general):
    number = general.run("iter([1, [1j]])", stream=True)
    frames = general.until_end(number)
    assert [frame["t"] for frame in frames] == ["chunk", "error"]
    assert (frames[1]["kind"], frames[1]["message"]) == (
        "unserialisable",
        "`chunk[0]` of type `complex` cannot be sent",
    )


def test_bytes_arrive_as_bytes_at_any_depth(general):
    packed = {"$bytes": base64.b64encode(b"\x00\xff").decode()}
    end = general.result("repr(given)", deep={"a": [1, packed]}, top=packed, two={"$bytes": "eA==", "x": 1})
    assert end["value"] == repr(
        {"deep": {"a": [1, b"\x00\xff"]}, "top": b"\x00\xff", "two": {"$bytes": "eA==", "x": 1}}
    )


def test_bad_base64_is_a_bad_argument(general):
    end = general.result("given", data={"$bytes": "not base64!"})
    assert (end["t"], end["kind"]) == ("error", "bad_arguments")


def test_marked_strings_are_only_strings(general):
    assert general.result("given['text']", text='"$bytes"')["value"] == '"$bytes"'


def test_a_dto_becomes_a_temporary_file_at_any_depth(general, tmp_path):
    end = general.result("{'page': Page(1, [Dto(b'sound')])}", scratch=tmp_path)
    file = end["value"]["page"]["content"][0]["$file"]
    assert end["files"] is True
    assert file["temp"] is True and file["name"] == os.path.basename(file["path"])
    with open(file["path"], "rb") as content:
        assert content.read() == b"sound"
    os.unlink(file["path"])


def test_a_dto_that_hands_out_an_older_file_keeps_it(general, tmp_path):
    ours = os.path.abspath(os.__file__)  # the interpreter's own: nobody keeps that in a temp folder
    file = general.result(f"Dto(path={ours!r})", scratch=tmp_path)["value"]["$file"]
    assert file == {"path": ours, "name": os.path.basename(ours), "temp": False}


def test_a_dto_is_not_asked_twice(general, tmp_path):
    listed = tmp_path / "list"
    general.result(f"os.environ.__setitem__('DTO_LIST', {str(listed)!r})")
    end = general.result("[Dto(), float('nan')]", scratch=tmp_path)
    assert end["value"][1] is None
    made = listed.read_text().split()
    assert made == [end["value"][0]["$file"]["path"]]
    os.unlink(made[0])


def test_files_of_a_refused_value_are_removed(general, tmp_path):
    listed = tmp_path / "list"
    general.result(f"os.environ.__setitem__('DTO_LIST', {str(listed)!r})")
    assert general.result("[Dto(), 1j]", scratch=tmp_path)["kind"] == "unserialisable"
    (made,) = listed.read_text().split()
    assert not os.path.exists(made)


def test_large_bytes_become_a_file_in_scratch(general, tmp_path):
    end = general.result("[bytes(1024), bytes(1025), b'z' * 2000]", scratch=tmp_path)
    small, first, second = end["value"]
    assert "$bytes" in small and end["files"] is True
    for file, content in ((first, bytes(1025)), (second, b"z" * 2000)):
        assert file["$file"]["temp"] is True
        assert os.path.dirname(file["$file"]["path"]) == str(tmp_path)
        with open(file["$file"]["path"], "rb") as stored:
            assert stored.read() == content
    assert first["$file"]["path"] != second["$file"]["path"]


def test_a_path_in_scratch_is_a_file_and_a_string_is_not(general, tmp_path):
    (tmp_path / "out.txt").write_text("result")
    path = str(tmp_path / "out.txt")
    end = general.result(f"[Path({path!r}), {path!r}]", scratch=tmp_path)
    assert end["value"] == [{"$file": {"path": path, "name": "out.txt", "temp": False}}, path]
    missing = general.result(f"Path({path!r} + 'x')", scratch=tmp_path)
    assert (missing["kind"], "there is no file" in missing["message"]) == ("unserialisable", True)


def test_scratch_is_told_to_the_plugin(general, tmp_path):
    code = "[self.grange_scratch, str(__import__('grange_worker').scratch())]"
    folder = tmp_path / "not-there-yet"
    assert general.result(code, scratch=folder)["value"] == [str(folder)] * 2
    assert folder.is_dir()


def test_a_stream_carries_files(general, tmp_path):
    number = general.run("iter([Dto(), 1])", stream=True, scratch=tmp_path)
    first, second, end = general.until_end(number)
    assert (first["files"], second["files"], end["files"]) == (True, False, False)
    os.unlink(first["value"]["$file"]["path"])
