"""Runs in the plugin's own environment: `PYTHON -m unittest discover -s examples/plugins/whisper`.

No model is downloaded: the run from end to end uses a tiny model with random weights that is made here, so that what
it writes is nonsense, but every step is the real one.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import unittest
import wave
from pathlib import Path
from typing import Any
from unittest import mock

import ctranslate2
import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

sys.path.insert(0, str(Path(__file__).resolve().parent))

import model_source
from model_source import MODEL_VARIABLE, ModelError, find_model
from whisper_plugin import AudioError, CancelledError, WhisperPlugin

WIDTH = 64
MELS = 80
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>")
SPECIAL += ("<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
TIMES = tuple(f"<|{step * 0.02:.2f}|>" for step in range(1501))


def make_model(folder: Path) -> None:
    """A Whisper model of one layer, English only, with random weights."""
    words = [chr(code) for code in byte_letters()]
    tokens = [*words, *SPECIAL, *TIMES]
    spec = ctranslate2.specs.WhisperSpec(1, 2, 1, 2)
    fill(spec, len(tokens))
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = []
    spec.config.alignment_heads = [(0, 0)]
    spec.register_vocabulary(tokens)
    spec.validate()
    spec.save(str(folder))
    tokenizer = Tokenizer(tokenizer_models.BPE({token: n for n, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *TIMES])
    tokenizer.save(str(folder / "tokenizer.json"))


def byte_letters() -> list[int]:
    return sorted(ord(letter) for letter in pre_tokenizers.ByteLevel.alphabet())


def fill(spec: Any, tokens: int) -> None:
    rng = np.random.default_rng(7)

    def some(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.2).astype(np.float32)

    def norm(layer: Any) -> None:
        layer.gamma, layer.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def linear(layer: Any, out: int, inner: int) -> None:
        layer.weight, layer.bias = some(out, inner), some(out)

    def attention(layer: Any, itself: bool) -> None:
        norm(layer.layer_norm)
        for part, out in zip(layer.linear, (3, 1) if itself else (1, 2, 1)):
            linear(part, out * WIDTH, WIDTH)

    def block(layer: Any, crossed: bool) -> None:
        attention(layer.self_attention, True)
        if crossed:
            attention(layer.attention, False)
        norm(layer.ffn.layer_norm)
        linear(layer.ffn.linear_0, 2 * WIDTH, WIDTH)
        linear(layer.ffn.linear_1, WIDTH, 2 * WIDTH)

    encoder, decoder = spec.encoder, spec.decoder
    encoder.conv1.weight, encoder.conv1.bias = some(WIDTH, MELS, 3), some(WIDTH)
    encoder.conv2.weight, encoder.conv2.bias = some(WIDTH, WIDTH, 3), some(WIDTH)
    encoder.position_encodings.encodings = some(1500, WIDTH)
    decoder.position_encodings.encodings = some(448, WIDTH)
    decoder.embeddings.weight = some(tokens, WIDTH)
    decoder.projection.weight = decoder.embeddings.weight
    decoder.scale_embeddings = False
    block(encoder.layer[0], crossed=False)
    block(decoder.layer[0], crossed=True)
    norm(encoder.layer_norm)
    norm(decoder.layer_norm)


def make_recording(path: Path, seconds: float) -> None:
    rng = random.Random(3)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        samples = (
            int(6000 * math.sin(n / 16000 * 2 * math.pi * 220) + rng.uniform(-900, 900))
            for n in range(int(seconds * 16000))
        )
        out.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))


class FolderCase(unittest.TestCase):
    """A folder that is removed, and an environment without a model."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="whisper-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        patch = mock.patch.dict(os.environ)
        patch.start()
        self.addCleanup(patch.stop)
        os.environ.pop(MODEL_VARIABLE, None)


class NoModel(FolderCase):
    """Each way of having no model is one sentence that says what to do, soon."""

    def message(self, name: str) -> str:
        started = time.monotonic()
        with self.assertRaises(ModelError) as caught:
            find_model(name)
        self.assertLess(time.monotonic() - started, model_source.CONNECT_S + 5)
        self.assertNotIn("\n", str(caught.exception))
        return str(caught.exception)

    def test_hub_cannot_be_reached(self) -> None:
        # A port of this machine that nobody listens at stands for a hub that cannot be reached.
        with (
            mock.patch("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"),
            mock.patch("faster_whisper.utils.download_model", side_effect=self.not_downloaded),
        ):
            message = self.message("tiny")
        self.assertIn("the model `tiny` is not on this machine and the hub cannot be reached", message)
        self.assertIn(MODEL_VARIABLE, message)
        self.assertIn("configuration key `model`", message)

    def not_downloaded(self, name: str, local_files_only: bool = False) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        self.assertTrue(local_files_only, "nothing may be downloaded when the hub does not answer")
        raise LocalEntryNotFoundError(name)

    def test_folder_is_not_there(self) -> None:
        self.assertIn("`/nowhere/model` does not exist", self.message("/nowhere/model"))

    def test_folder_without_a_model(self) -> None:
        self.assertIn("has no model.bin and no config.json", self.message(str(self.folder)))

    def test_unknown_name(self) -> None:
        self.assertIn("`huge` is neither a folder nor one of the models tiny", self.message("huge"))

    def test_the_plugin_says_it_when_it_is_initialised(self) -> None:
        with self.assertRaisesRegex(ModelError, "does not exist"):
            WhisperPlugin().initialize({"model": "/nowhere/model"})

    def test_cuda_without_a_gpu(self) -> None:
        if ctranslate2.get_cuda_device_count():
            self.skipTest("there is a GPU")
        make_model(self.folder)
        with self.assertRaisesRegex(ModelError, "no GPU can be used here"):
            WhisperPlugin().initialize({"model": str(self.folder), "device": "cuda"})


class RandomModel(FolderCase):
    """The real path from end to end."""

    def setUp(self) -> None:
        super().setUp()
        model = self.folder / "model"
        model.mkdir()
        make_model(model)
        os.environ[MODEL_VARIABLE] = str(model)
        self.audio = self.folder / "tone.wav"
        make_recording(self.audio, 45)
        self.plugin = WhisperPlugin()
        self.plugin.initialize({"device": "cpu", "beam_size": 1, "skip_silence": False})

    def test_segments_stream_and_the_transcript_is_returned(self) -> None:
        progress: list[float] = []
        self.plugin.report_progress = lambda value, message="": progress.append(value)
        stream = self.plugin.execute_stream(str(self.audio), language="en")
        segments = []
        while True:
            try:
                segments.append(next(stream))
            except StopIteration as end:
                result = end.value
                break
        self.assertEqual(set(segments[0]), {"segment", "start", "end", "text", "confidence"})
        self.assertEqual([segment["segment"] for segment in segments], list(range(1, len(segments) + 1)))
        self.assertEqual(result["segments"], len(segments))
        self.assertEqual(result["text"], " ".join(segment["text"] for segment in segments))
        self.assertEqual(result["duration"], 45.0)
        self.assertEqual(progress, sorted(progress))
        self.assertEqual((progress[0], progress[-1]), (0.0, 1.0))
        json.dumps([segments, result])

    def test_cancel(self) -> None:
        stream = self.plugin.execute_stream(str(self.audio), language="en")
        next(stream)
        self.plugin.cancel()
        with self.assertRaises(CancelledError):
            for _ in stream:
                pass

    def test_recordings_that_cannot_be_read(self) -> None:
        text = self.folder / "notes.txt"
        text.write_text("not a recording")
        for path, words in ((text, "is not a recording"), (self.folder / "no.wav", "does not exist")):
            with self.subTest(path.name), self.assertRaises(AudioError) as caught:
                self.plugin.execute(str(path))
            self.assertIn(words, str(caught.exception))
            self.assertIn(str(path), str(caught.exception))

    def test_configuration(self) -> None:
        with self.assertRaisesRegex(ValueError, "`device` is `tpu`"):
            self.plugin.initialize({"device": "tpu"})
        properties = self.plugin.get_config_schema()["properties"]
        defaults = {key: rule["default"] for key, rule in properties.items()}
        self.assertEqual(defaults, WhisperPlugin().get_current_config())


if __name__ == "__main__":
    unittest.main()
