"""Tests of the evaluation: `load-tests/profile --self-test`."""

import random
import unittest

from . import evaluate, plot, publish
from .evaluate import Bound


class Percentiles(unittest.TestCase):
    def test_share_of_values_at_most_the_percentile_is_at_least_the_share(self):
        draw = random.Random(7)
        for _ in range(200):
            values = [draw.expovariate(1) for _ in range(draw.randint(1, 300))]
            share = draw.random()
            found = evaluate.percentile(values, share)
            self.assertIn(found, values)
            self.assertGreaterEqual(sum(each <= found for each in values), share * len(values))
            self.assertLess(sum(each < found for each in values), max(share * len(values), 1))

    def test_no_values_have_no_percentile(self):
        self.assertIsNone(evaluate.percentile([], 0.5))


class Rates(unittest.TestCase):
    def test_clients_that_begin_slowly_do_not_lower_the_rate(self):
        starts = evaluate.schedule(200, 50, 200, 1, 0.01)
        self.assertAlmostEqual(evaluate.rate(starts), 200, delta=2)

    def test_too_few_requests_have_no_rate(self):
        self.assertEqual(evaluate.rate([]), 0)
        self.assertEqual(evaluate.rate([1.0, 1.0]), 0)


class Growth(unittest.TestCase):
    def test_flat_memory_with_noise_does_not_grow(self):
        draw = random.Random(3)
        series = [(at, 50 + draw.uniform(-1, 1)) for at in range(1800)]
        self.assertLess(abs(evaluate.growth_percent(series)), 1)

    def test_a_leak_is_growth(self):
        series = [(at, 50 + at * 0.01) for at in range(1800)]
        self.assertGreater(evaluate.growth_percent(series), 25)

    def test_one_high_sample_changes_nothing(self):
        series = [(at, 50.0) for at in range(100)]
        series[-1] = (99, 900.0)
        self.assertEqual(evaluate.growth_percent(series), 0)

    def test_too_short_a_series_has_no_growth(self):
        self.assertIsNone(evaluate.growth_percent([(0, 1), (1, 1)]))


class Omission(unittest.TestCase):
    def test_a_schedule_that_is_kept_adds_nothing(self):
        starts = [index / 200 for index in range(1000)]
        late = evaluate.lateness_ms(starts, evaluate.schedule(1, 1000, 200, 1, 0))
        self.assertLess(max(late), 0.001)

    def test_clients_that_begin_apart_have_schedules_of_their_own(self):
        # 40 clients, one each 10 ms, five requests a second of each.
        due = evaluate.schedule(40, 10, 200, 1, 0.01)
        self.assertEqual(len(due), 400)
        self.assertEqual(due, sorted(due))
        self.assertEqual(due[:3], [0.0, 0.01, 0.02])
        self.assertAlmostEqual(due[-1], 0.39 + 9 * 0.2)
        # At most as many in a second as the rate says, once all have begun.
        self.assertEqual(sum(0.5 <= at < 1.4999 for at in due), 200)

    def test_a_stall_counts_for_every_request_that_it_delays(self):
        # 100 requests a second, none sent between 1 s and 2 s, then all that were due at once.
        due = [index / 100 for index in range(400)]
        starts = [max(at, 2.0) if at >= 1.0 else at for at in due]
        late = evaluate.lateness_ms(starts, due)
        fixed = [evaluate.corrected_ms(1.0, each) for each in late]
        self.assertAlmostEqual(sum(each > 20 for each in fixed), 98, delta=1)
        self.assertAlmostEqual(max(fixed), 1001, delta=1)
        # The generator's own log shows 1 ms for each of them.
        self.assertGreater(evaluate.percentile(fixed, 0.9), 500)


class Verdicts(unittest.TestCase):
    def test_limits_are_met_at_the_limit_and_missed_beyond(self):
        for sign, good, bad in (("<=", 200.0, 200.1), (">=", 1000.0, 999.9)):
            limit = good
            self.assertTrue(Bound("S", "f", "u", good, sign, limit).verdict()["met"])
            self.assertFalse(Bound("S", "f", "u", bad, sign, limit).verdict()["met"])

    def test_an_unmeasured_figure_is_missed(self):
        self.assertFalse(Bound("S", "p95", "ms", None, "<=", 200).verdict()["met"])

    def test_one_repeat_that_misses_is_a_miss(self):
        runs = [[Bound("S", "p95", "ms", value, "<=", 100).verdict()] for value in (10, 20, 130)]
        joined = evaluate.over_repeats(runs)[0]
        self.assertEqual((joined["measured"], joined["least"], joined["most"]), (20, 10, 130))
        self.assertEqual((joined["met"], joined["runs_met"], joined["runs"]), (False, 2, 3))

    def test_an_lru_cache_hits_what_was_used_within_its_room(self):
        draw = random.Random(11)
        for _ in range(50):
            keys = [str(draw.randrange(12)) for _ in range(draw.randint(0, 80))]
            room = draw.randint(1, 12)
            hits = 0
            for place, key in enumerate(keys):
                earlier = [index for index in range(place) if keys[index] == key]
                hits += bool(earlier) and len(set(keys[earlier[-1] + 1:place])) < room
            self.assertEqual(evaluate.lru_hits(keys, room), hits)


class Output(unittest.TestCase):
    RESULT = {
        "started": "2026-01-01T00:00:00+0000", "scale": 1.0, "cores": 2, "version": "edgeway 0",
        "machine": {"cpu": "Test CPU", "cpus": 2, "kernel": "6.1", "memory_gib": 4,
                    "system": "Debian", "commit": "abc", "changed": False},
        "profiles": {"soak": {
            "title": "Soak", "seconds": 60, "foreign_percent": [1.0], "notes": ["A note."],
            "verdicts": evaluate.over_repeats(
                [[Bound("S-112", "RSS growth", "%", 2.0, "<=", 5).verdict(),
                  Bound("S-112", "errors", "", 3, "<=", 0).verdict()]]),
            "figures": {"requests": 10}, "series": {"t": [0, 1, 2], "p50": [1, 2, None],
            "p95": [3, 4, None], "rate": [10, 11, 0], "errors": [0, 1, 0],
            "rss": [50, 51, 52]}}}}

    def test_markdown_names_what_was_missed(self):
        text = publish.markdown(self.RESULT)
        self.assertIn("| S-112 | RSS growth | ≤ 5 % | 2 % | met |", text)
        self.assertIn("**missed**", text)

    def test_publishing_replaces_only_the_text_between_the_markers(self):
        page = f"before\n{publish.BEGIN}\nold\n{publish.END}\nafter\n"
        once = publish.replaced(page, "new")
        self.assertEqual(once, f"before\n{publish.BEGIN}\n\nnew\n\n{publish.END}\nafter\n")
        self.assertEqual(publish.replaced(once, "new"), once)
        with self.assertRaises(ValueError):
            publish.replaced("no markers", "new")

    def test_a_plot_is_well_formed_and_has_both_colour_schemes(self):
        import xml.etree.ElementTree as tree
        text = plot.svg("Soak <1>", self.RESULT["profiles"]["soak"]["series"])
        tree.fromstring(text)
        self.assertIn("prefers-color-scheme: dark", text)
