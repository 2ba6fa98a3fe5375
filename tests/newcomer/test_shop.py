"""What a newcomer's own tests look like."""

from __future__ import annotations

import pytest
from shop import Order, app, buy, charge, invoice, mail, reserve

ORDER = Order(17, "ann@example.com", 4200)


def test_buying_enqueues_everything(cloudq_sandbox):
    box = cloudq_sandbox(app)
    buy(ORDER, "tea")
    box.assert_enqueued(charge, ORDER)
    box.assert_enqueued(reserve, "tea")
    box.assert_enqueued(invoice, 17)
    assert box.assert_enqueued(mail, "ann@example.com", "how was it?").delay == 3


def test_a_charge_is_tried_again_and_then_told_by_mail(cloudq_sandbox):
    box = cloudq_sandbox(app)
    charge.enqueue(ORDER)
    with pytest.raises(ConnectionError):
        box.run_pending()
    box.clock.advance("2s")
    box.run_pending()
    assert box.assert_enqueued(mail, "ann@example.com", "paid order 17").priority == "high"


def test_what_is_not_in_stock_is_given_up(cloudq_sandbox, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stock.txt").write_text("tea=0\n")
    box = cloudq_sandbox(app)
    reserve.enqueue("coffee")
    box.run_pending(errors=False)
    (letter,) = box.dead()
    assert (letter.kind, letter.reason) == ("rejected", "not found: 'coffee'")
