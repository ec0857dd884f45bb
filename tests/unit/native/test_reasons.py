"""The drop reasons: one list, in C, with words that counters and docs share."""

from native.reasons import Reason


def test_reasons_have_distinct_words_and_a_meaning() -> None:
    words = [reason.word for reason in Reason]
    assert len(set(words)) == len(words)
    assert all(word == word.lower() and " " not in word for word in words)
    assert all(reason.meaning for reason in Reason)


def test_a_reason_is_the_one_that_the_native_code_means() -> None:
    assert Reason.AUTH.word == "auth"
    assert Reason.SOURCE.word == "source-not-allowed"
    assert Reason.TUN_WRITE.meaning == "the write into the TUN failed"
    assert not Reason.NONE
