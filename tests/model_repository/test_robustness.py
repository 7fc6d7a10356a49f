import random
from collections.abc import Callable, Iterator

import pytest
from tritonclient.grpc import InferenceServerClient

from scripts.local.triton import Triton
from tests.model_repository.test_ensembles import _ask

# Prompts whose task nobody would argue about, worded here and nowhere trained on.
_PROMPTS = {
    "Write a Python function that reverses a linked list.": "Code Generation",
    "Fix the bug in this JavaScript: for (let i = 0; i <= items.length; i++) { console.log(items[i].name) }": (
        "Code Generation"
    ),
    "Write a SQL query that counts the orders of each customer in 2023.": "Code Generation",
    "Write a short story about a clockmaker who repairs memories.": "Text Generation",
    "Compose an email to my tenants announcing that the lift will be out of order next week.": "Text Generation",
    "Write a poem about the first snow.": "Text Generation",
    "What is the tallest mountain in Africa?": "Open QA",
    "Why do leaves change colour in autumn?": "Open QA",
    "How do I descale a kettle?": "Open QA",
    "Give me ten names for a sailing boat.": "Brainstorming",
    "Suggest five ideas for a rainy afternoon with two small children.": "Brainstorming",
    "Paraphrase this sentence: The committee postponed its decision because two members were ill.": "Rewrite",
    "Correct the spelling and grammar: me and him has went to the libary yesterday": "Rewrite",
    "Summarize this in one sentence: The harbour was rebuilt after the flood. Engineers raised the quay by two metres, "
    "moved the fish market inland, and planted trees along the new promenade. It took four years.": "Summarization",
    "Classify the sentiment of this review as positive or negative: The soup was cold and the waiter rude.": (
        "Classification"
    ),
    "Which of these are fruits and which are vegetables: carrot, apple, leek, plum, spinach?": "Classification",
    "Extract all dates from this text: The treaty was signed on 4 May 1949 and renewed on 12 June 1971.": "Extraction",
    "Hello! How are you today?": "Chatbot",
}
_FILLER = (
    "The committee met on Tuesday and discussed the annual budget at length. Several members asked about the roof. "
    "The treasurer explained last year's figures, and the chair thanked everybody who had helped at the summer fair. "
)
_OTHER_LANGUAGES = (
    "Schreibe eine Python-Funktion, die eine Liste sortiert.",
    "Écris un poème sur la mer.",
    "¿Cuál es la capital de Australia?",
    "日本の首都はどこですか？",
    "Напиши короткий рассказ о собаке.",
)


@pytest.fixture(scope="module")
def client(triton: Triton) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(triton.grpc_url) as client:
        yield client


def _tasks(client: InferenceServerClient, prompts: list[str]) -> list[str]:
    return [label.decode() for label in _ask(client, "router_ensemble", prompts, ["task_label"])["task_label"][:, 0]]


def test_plain_requests_are_recognised(client: InferenceServerClient) -> None:
    """Requests of every kind, plainly worded, get their task, but for one at most."""
    answers = _tasks(client, list(_PROMPTS))
    wrong = [
        (prompt, answer) for (prompt, task), answer in zip(_PROMPTS.items(), answers, strict=True) if answer != task
    ]
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda prompt: f"Prompt: {prompt}", 17),
        (str.upper, 18),
        (lambda prompt: f"  {prompt} \n\n\t ", 18),
        (lambda prompt: prompt.removesuffix("."), 17),
    ],
    ids=["prefix", "capitals", "white space", "no full stop"],
)
def test_small_changes_leave_the_answer(client: InferenceServerClient, change: Callable[[str], str], kept: int) -> None:
    """What does not change a request hardly changes its task: the encoder reads neither case nor outer spaces."""
    prompts = list(_PROMPTS)
    pairs = zip(_tasks(client, prompts), _tasks(client, [change(prompt) for prompt in prompts]), strict=True)
    assert sum(before == after for before, after in pairs) >= kept


def test_an_instruction_around_a_long_text_is_still_seen(client: InferenceServerClient) -> None:
    """With 3,000 words behind or before it, an instruction at either end is understood."""
    text = _FILLER * (3000 // len(_FILLER.split()) + 1)
    assert len(text.split()) >= 3000
    prompts = [f"Summarize the following text:\n\n{text}", f"{text}\n\nSummarize the text above."]
    assert _tasks(client, prompts) == ["Summarization"] * 2
    # The same text with another instruction: it is the instruction that decides.
    assert _tasks(client, [f"Translate into French:\n\n{text}", f"{text}\n\nTranslate this into French."]) == (
        ["Rewrite"] * 2
    )


def test_other_languages_get_some_answer(client: InferenceServerClient) -> None:
    """Prompts that are not English are answered, though what is answered means little (the card says so)."""
    assert len(_tasks(client, list(_OTHER_LANGUAGES))) == len(_OTHER_LANGUAGES)


def test_noise_does_not_raise(client: InferenceServerClient) -> None:
    """Random characters of all planes are answered like any prompt."""
    generator = random.Random(0)
    noise = ["".join(chr(generator.choice((generator.randrange(0xD800), generator.randrange(0xE000, 0x110000))))
                     for _ in range(200)) for _ in range(32)]  # fmt: skip
    assert len(_tasks(client, noise)) == len(noise)
