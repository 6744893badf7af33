"""What the detector does around its network: views, decoding, merging, order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from facegraph.errors import ConfigError
from facegraph.faces import views
from facegraph.faces.alignment import TEMPLATE
from facegraph.faces.detection import _cut, _faces
from facegraph.faces.heads import HEADS, Candidates, ScrfdHead, YuNetHead
from facegraph.faces.looks import Look, Looking, answered, in_turns, together
from facegraph.faces.refinement import FILL, SIDE, refine
from facegraph.faces.upright import MAX_LOOKS, MAX_LOSS, leans, straighten
from facegraph.faces.views import FREE_SHAPES, MARGIN, View
from facegraph.images import Picture, Raster
from facegraph.types import ByteArray, Faces, FloatArray

MEGAPIXELS_12 = (4000, 3000)


def candidates(*rows: tuple[float, float, float, float, float]) -> Candidates:
    """From x1, y1, x2, y2, score; the five points lie in the box's middle."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    middle = (table[:, :2] + table[:, 2:4]) / 2
    return Candidates(table[:, :4], np.repeat(middle[:, None], 5, 1), table[:, 4])


def seen_by(network: Callable[[ByteArray, float], Candidates], looking: Looking[Faces]) -> Faces:
    """What ``looking`` comes to when ``network`` sees each look by itself."""
    return answered(looking, lambda looks: [network(*look) for look in looks])


class TestViews:
    @pytest.mark.parametrize(
        ("size", "shape", "scale"),
        [
            ((1, 1), (320, 320), 1.0),
            ((112, 112), (320, 320), 1.0),  # never enlarged
            ((256, 256), (320, 320), 1.0),
            ((257, 100), (448, 640), 1.0),
            ((576, 576), (640, 640), 1.0),
            ((1280, 886), (512, 640), 576 / 1280),
            ((886, 1280), (640, 512), 576 / 1280),
            ((1920, 1080), (448, 640), 0.3),
            ((4000, 3000), (512, 640), 576 / 4000),
        ],
    )
    def test_whole(self, size: tuple[int, int], shape: views.Shape, scale: float) -> None:
        view = views.whole(*size, FREE_SHAPES)
        assert (view.shape, view.left, view.top) == (shape, -MARGIN, -MARGIN)
        assert view.scale == pytest.approx(scale)

    def test_network_of_one_size(self) -> None:
        assert views.whole(1000, 500, [(320, 320)]).scale == pytest.approx(0.256)

    @pytest.mark.parametrize(
        ("size", "count"),
        [
            ((640, 480), 0),
            ((1920, 1080), 0),
            ((1080, 1920), 0),
            ((2560, 1440), 2),
            (MEGAPIXELS_12, 9),
            ((8660, 5773), 24),
        ],
    )
    def test_tiles_only_where_much_is_lost(self, size: tuple[int, int], count: int) -> None:
        assert len(views.tiles(*size, FREE_SHAPES)) == count

    @pytest.mark.parametrize("size", [MEGAPIXELS_12, (8660, 5773), (50_000, 1000), (2000, 2000)])
    def test_tiles_cover_the_image_and_overlap(self, size: tuple[int, int]) -> None:
        tiles = views.tiles(*size, FREE_SHAPES)
        assert 0 < len(tiles) <= views.MAX_TILES
        for axis, name in ((0, "left"), (1, "top")):
            starts = sorted({getattr(tile, name) for tile in tiles})
            assert starts[0] == -MARGIN
            assert starts[-1] + 640 >= size[axis] * tiles[0].scale
            gaps = np.diff(starts)
            assert (gaps <= 640 - views.TILE_OVERLAP + 1).all()

    def test_only_inner_edges_cut(self) -> None:
        tiles = views.tiles(*MEGAPIXELS_12, FREE_SHAPES)
        assert tiles[0].cuts == (False, False, True, True)
        assert tiles[-1].cuts == (True, True, False, False)

    def test_close_up(self) -> None:
        near = views.close_up(1000, 800, FREE_SHAPES)
        assert near is not None
        assert near.scale == pytest.approx(0.192)
        assert near.shape == (320, 320)
        assert views.close_up(200, 200, FREE_SHAPES) is None

    def test_draw(self) -> None:
        scaled = np.full((10, 20, 3), 7, np.uint8)
        canvas = views.draw(scaled, View(1.0, (32, 64), -4, -2))
        assert canvas.shape == (32, 64, 3)
        assert canvas.sum() == 7 * scaled.size
        assert canvas[2, 4].tolist() == [7, 7, 7]
        assert canvas[1].sum() == canvas[:, 3].sum() == canvas[12].sum() == canvas[:, 24].sum() == 0
        inner = views.draw(scaled, View(1.0, (4, 4), 18, 8))
        assert inner[:2, :2].min() == 7
        assert inner.sum() == 7 * 3 * 4

    @pytest.mark.parametrize("shape", [(1, 5000, 3), (5000, 1, 3), (1, 1, 3)])
    def test_shrink_leaves_a_pixel(self, shape: tuple[int, int, int]) -> None:
        assert min(views.shrink(np.zeros(shape, np.uint8), 0.1).shape) >= 1


class TestHeads:
    def test_yunet(self) -> None:
        """One face in the cell of stride 16, column 3, row 2, of a 64×128 input."""
        sizes = [(8, 16), (4, 8), (2, 4)]
        parts = {w: [np.zeros((1, r * c, w), np.float32) for r, c in sizes] for w in (1, 4, 10)}
        cls, obj = [p.copy() for p in parts[1]], [p.copy() for p in parts[1]]
        cell = 2 * 8 + 3
        cls[1][0, cell], obj[1][0, cell] = 0.9, 0.4
        parts[4][1][0, cell] = [0.5, -0.25, np.log(2), np.log(3)]
        parts[10][1][0, cell] = [0, 0, 1, 0, 0.5, 0.5, 0, 1, 1, 1]
        seen = YuNetHead().decode([*cls, *obj, *parts[4], *parts[10]], 64, 128, 0.5)
        assert seen.scores.tolist() == pytest.approx([0.6])
        assert seen.boxes[0].tolist() == pytest.approx([40, 4, 72, 52])
        points = [[48, 32], [64, 32], [56, 40], [48, 48], [64, 48]]
        assert seen.landmarks[0].tolist() == points

    def test_scrfd(self) -> None:
        """The second anchor of the cell of stride 8, column 1, row 2, of a 64×32 input."""
        sizes = [(8, 4), (4, 2), (2, 1)]
        parts = [np.zeros((2 * r * c, w), np.float32) for w in (1, 4, 10) for r, c in sizes]
        row = 2 * (2 * 4 + 1) + 1
        parts[0][row] = 0.8
        parts[3][row] = [1, 2, 3, 4]
        parts[6][row] = [0, 0, 1, 0, 0.5, 0.5, 0, 1, 1, 1]
        seen = ScrfdHead().decode(parts, 64, 32, 0.5)
        assert seen.scores.tolist() == pytest.approx([0.8])
        assert seen.boxes[0].tolist() == [0, 0, 32, 48]
        assert seen.landmarks[0].tolist() == [[8, 16], [16, 16], [12, 20], [8, 24], [16, 24]]

    @pytest.mark.parametrize("head", [YuNetHead(), ScrfdHead()])
    def test_other_networks_are_refused(self, head: YuNetHead | ScrfdHead) -> None:
        with pytest.raises(ConfigError, match="outputs"):
            head.decode([np.zeros((4, 2), np.float32)], 64, 64, 0.5)

    def test_pixels_as_trained(self) -> None:
        canvas = np.zeros((2, 2, 3), np.uint8)
        canvas[..., 0] = 255  # red
        assert YuNetHead().blob(canvas)[0, :, 0, 0].tolist() == [0, 0, 255]
        assert ScrfdHead().blob(canvas)[0, :, 0, 0].tolist() == pytest.approx(
            [127.5 / 128, -127.5 / 128, -127.5 / 128]
        )


class TestMerging:
    def test_order(self) -> None:
        """Largest first; then score, then top, then left."""
        seen = candidates(
            (0, 0, 10, 10, 0.7),
            (500, 40, 510, 50, 0.8),
            (400, 20, 410, 30, 0.8),
            (300, 20, 310, 30, 0.8),
            (100, 100, 150, 150, 0.65),
        )
        faces = _faces([seen], 0.4, 1000, 1000)
        assert faces.boxes[:, 0].tolist() == [100, 300, 400, 500, 0]

    def test_the_same_face_in_two_views(self) -> None:
        one, other = candidates((10, 10, 50, 50, 0.7)), candidates((12, 10, 52, 50, 0.9))
        faces = _faces([one, other], 0.4, 100, 100)
        assert faces.boxes.tolist() == [[12, 10, 52, 50]]
        votes = np.array([0.7, 0.9]) ** 2
        assert faces.landmarks[0, 0, 0] == pytest.approx((votes @ [30, 32]) / votes.sum())

    def test_clipped_to_the_image_but_not_the_landmarks(self) -> None:
        faces = _faces([candidates((-30, -50, 20, 40, 0.9))], 0.4, 100, 30)
        assert faces.boxes.tolist() == [[0, 0, 20, 30]]
        assert faces.landmarks[0, 0].tolist() == [-5, -5]

    @pytest.mark.parametrize(
        "row",
        [
            (np.nan, 0, 10, 10, 0.9),
            (0, 0, np.inf, 10, 0.9),
            (0, 0, 10, 10, np.nan),
            (20, 20, 20, 40, 0.9),  # no width
            (40, 20, 20, 40, 0.9),  # turned inside out
            (200, 200, 240, 240, 0.9),  # outside
        ],
    )
    def test_unsound_boxes_are_dropped(self, row: tuple[float, float, float, float, float]) -> None:
        faces = _faces([candidates(row, (0, 0, 30, 30, 0.7))], 0.4, 100, 100)
        assert faces.boxes.tolist() == [[0, 0, 30, 30]]

    def test_nothing(self) -> None:
        assert len(_faces([candidates()], 0.4, 10, 10)) == 0

    def test_what_a_tile_cuts_is_left_to_its_neighbour(self) -> None:
        view = View(0.4, (640, 640), 480, -MARGIN, (True, False, True, False))
        boxes = candidates(
            (5, 300, 60, 360, 0.9),  # at the inner left edge
            (300, 5, 360, 60, 0.9),  # at the top, where the image ends
            (600, 300, 650, 360, 0.9),  # across the inner right edge
            (300, 300, 360, 360, 0.9),
        ).boxes
        assert _cut(boxes, view).tolist() == [True, False, True, False]


class TestRefinement:
    box = np.array([[100, 60, 148, 120]], np.float32)

    def faces(self, box: FloatArray) -> Faces:
        return Faces(box, np.zeros((1, 5, 2), np.float32), np.ones(1, np.float32))

    def refined(self, rgb: ByteArray, box: FloatArray, seen: Candidates) -> FloatArray:
        small = np.array([True])
        faces = seen_by(lambda pixels, score: seen, refine(Picture.of(rgb), self.faces(box), small))
        return np.asarray(faces.landmarks[0, 0])

    def test_points_are_those_of_the_close_up(self) -> None:
        """The middle of the close-up is the middle of the box, to a pixel."""
        middle = SIDE / 2
        half = FILL * SIDE / 2
        seen = candidates((middle - half, middle - half, middle + half, middle + half, 0.9))
        point = self.refined(np.zeros((300, 300, 3), np.uint8), self.box, seen)
        assert point.tolist() == pytest.approx([124, 90], abs=1)

    def test_another_face_is_not_taken(self) -> None:
        seen = candidates((0, 0, 60, 60, 0.99))
        point = self.refined(np.zeros((300, 300, 3), np.uint8), self.box, seen)
        assert point.tolist() == [0, 0]

    def test_close_up_shows_the_face(self) -> None:
        rgb = np.zeros((300, 300, 3), np.uint8)
        rgb[60:120, 100:148] = 255
        shown: list[ByteArray] = []

        def look(pixels: ByteArray, score: float) -> Candidates:
            shown.append(pixels)
            return candidates()

        seen_by(look, refine(Picture.of(rgb), self.faces(self.box), np.array([True])))
        white = np.argwhere(shown[0][..., 0] > 127)
        assert shown[0].shape == (SIDE, SIDE, 3)
        assert np.ptp(white[:, 0]) + 1 == pytest.approx(FILL * SIDE, abs=2)
        seen_by(look, refine(Picture.of(rgb), self.faces(self.box), np.array([False])))
        assert len(shown) == 1

    @pytest.mark.parametrize("corner", [(-20, -20), (280, 280), (-20, 280)])
    def test_at_the_border(self, corner: tuple[int, int]) -> None:
        box = np.array([[*corner, corner[0] + 40, corner[1] + 40]], np.float32).clip(0, 300)
        point = self.refined(np.full((300, 300, 3), 9, np.uint8), box, candidates())
        assert point.tolist() == [0, 0]


COLORS = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)]


def rotated(points: FloatArray, degrees: float) -> FloatArray:
    """Around their mean, clockwise."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = points.mean(axis=0)
    return np.asarray((points - middle) @ turn.T + middle, np.float32)


class FakeNetwork:
    """Sees five coloured spots, and shows only ``share`` of the angle by which they lean."""

    def __init__(self, share: float, score: float = 0.9) -> None:
        self.share, self.score = share, score
        self.looks = 0

    def show(self, points: FloatArray) -> FloatArray:
        return rotated(points, (self.share - 1) * float(leans(points[None])[0]))

    def __call__(self, pixels: ByteArray, min_score: float) -> Candidates:
        self.looks += 1
        bright = pixels > 100
        spots = [np.argwhere((bright == color).all(axis=2)).mean(axis=0)[::-1] for color in COLORS]
        points = self.show(np.asarray(spots, np.float32))
        box = np.array([[0.2, 0.2, 0.8, 0.8]], np.float32) * SIDE
        return Candidates(box, points[None], np.array([self.score], np.float32))


class TestLeaning:
    def head(self, lean: float, narrow: float = 1.0) -> tuple[ByteArray, Faces, FloatArray]:
        """A picture of five spots that lean, the face as a network sees it that does not lag,
        and the spots.

        narrow: how wide the eyes and the mouth are, with the nose where it was
        """
        template = TEMPLATE.copy()
        template[[0, 1, 3, 4], 0] = 56 + narrow * (template[[0, 1, 3, 4], 0] - 56)
        template[2, 0] -= 35 * (1 - narrow)
        points = rotated(2 * (template - template.mean(axis=0)) + 200, lean)
        rgb = np.zeros((400, 400, 3), np.uint8)
        for (x, y), color in zip(points.round().astype(int), COLORS, strict=True):
            rgb[y - 4 : y + 5, x - 4 : x + 5] = 255 * np.array(color)
        box = np.array([[110, 110, 290, 290]], np.float32)
        return rgb, Faces(box, points[None], np.array([0.9], np.float32)), points

    def seen(self, face: Faces, network: FakeNetwork) -> Faces:
        """As the first pass shows it."""
        points = network.show(face.landmarks[0])[None]
        return Faces(face.boxes, points, face.detection_scores)

    @pytest.mark.parametrize(
        ("lean", "share", "off", "looks"),
        [
            (18, 0.6, 2, 1),
            (30, 0.6, 1, 2),
            (-30, 0.6, 1, 2),
            (45, 0.4, 4, 3),
            (30, 1.0, 1, 2),  # nothing lags: the second look takes back what was too much
            (60, 0.2, 21, MAX_LOOKS),
        ],
    )
    def test_points_follow(self, lean: float, share: float, off: float, looks: int) -> None:
        rgb, face, points = self.head(lean)
        network = FakeNetwork(share)
        faces = seen_by(network, straighten(Picture.of(rgb), self.seen(face, network)))
        assert network.looks == looks
        assert float(leans(faces.landmarks)[0]) == pytest.approx(lean, abs=off)
        assert np.array_equal(faces.boxes, face.boxes)
        assert np.array_equal(faces.detection_scores, face.detection_scores)
        back = rotated(faces.landmarks[0], lean - float(leans(faces.landmarks)[0]))
        assert np.abs(back - points).max() < 1

    @pytest.mark.parametrize(("score", "taken"), [(0.86, True), (0.84, False)])
    def test_a_wrong_turn_does_not_count(self, score: float, taken: bool) -> None:
        """It scores lower than the first pass, which gave 0.9, by more than ``MAX_LOSS``."""
        rgb, face, _ = self.head(30)
        network = FakeNetwork(0.6, score)
        before = self.seen(face, network)
        after = seen_by(network, straighten(Picture.of(rgb), before))
        assert (0.9 - score <= MAX_LOSS) == taken
        assert np.array_equal(after.landmarks, before.landmarks) != taken

    def test_a_look_that_shows_nothing(self) -> None:
        rgb, face, _ = self.head(30)
        after = seen_by(lambda pixels, score: candidates(), straighten(Picture.of(rgb), face))
        assert np.array_equal(after.landmarks, face.landmarks)

    def test_upright_heads_are_left_alone(self) -> None:
        rgb, face, _ = self.head(2.5)
        network = FakeNetwork(1)
        assert np.array_equal(
            seen_by(network, straighten(Picture.of(rgb), face)).landmarks, face.landmarks
        )
        assert network.looks == 0

    def test_points_that_do_not_lag_stay(self) -> None:
        """To the last digit: their network looked, and saw the same."""
        rgb, face, _ = self.head(10)
        network = FakeNetwork(1)
        assert np.array_equal(
            seen_by(network, straighten(Picture.of(rgb), face)).landmarks, face.landmarks
        )
        assert network.looks == 1

    def test_profiles_are_left_alone(self) -> None:
        rgb, face, _ = self.head(20, narrow=0.2)
        network = FakeNetwork(1)
        assert np.array_equal(
            seen_by(network, straighten(Picture.of(rgb), face)).landmarks, face.landmarks
        )
        assert network.looks == 0

    def test_nothing_to_look_at(self) -> None:
        """No face, and points that are all one."""
        rgb, network = np.zeros((9, 9, 3), np.uint8), FakeNetwork(1)
        assert len(seen_by(network, straighten(Picture.of(rgb), Faces.empty()))) == 0
        face = Faces(
            np.array([[0, 0, 9, 9]], np.float32),
            np.full((1, 5, 2), 4, np.float32),
            np.ones(1, np.float32),
        )
        assert (
            seen_by(network, straighten(Picture.of(rgb), face)).landmarks.tolist()
            == face.landmarks.tolist()
        )
        assert network.looks == 0

    def test_whose_points_lag(self) -> None:
        assert {kind: head.lags for kind, head in HEADS.items()} == {"yunet": True, "scrfd": False}


class TestLooks:
    def counting(self, name: int, looks: list[int]) -> Looking[tuple[int, list[float]]]:
        """Wants so many looks in each turn; comes to the scores it was told."""
        told: list[float] = []
        for turn, count in enumerate(looks):
            pixels = np.full((1, 1, 3), 10 * name + turn, np.uint8)
            answers = yield [Look(pixels, 0.5)] * count
            assert len(answers) == count
            told += [float(answer.scores[0]) for answer in answers]
        return name, told

    def see(self, batches: list[int], looks: Sequence[Look]) -> list[Candidates]:
        batches.append(len(looks))
        return [candidates((0, 0, 1, 1, float(look.pixels[0, 0, 0]))) for look in looks]

    def test_each_gets_its_own_answers(self) -> None:
        batches: list[int] = []
        lookings = [self.counting(0, [2, 1]), self.counting(1, []), self.counting(2, [1, 0, 3])]
        results = answered(together(lookings), functools.partial(self.see, batches))
        assert results == [(0, [0, 0, 1]), (1, []), (2, [20, 22, 22, 22])]
        assert batches == [3, 1, 3]

    def test_many_take_turns(self) -> None:
        batches: list[int] = []
        lookings = [self.counting(0, [1]) for _ in range(70)]
        assert len(answered(in_turns(lookings), functools.partial(self.see, batches))) == 70
        assert batches == [32, 32, 6]


def test_scaled_from_reduced_pixels_lies_where_all_pixels_would() -> None:
    """Odd sizes: the last reduced pixel sticks out, and nothing moves because of that."""
    y, x = np.mgrid[:1001, :1503]
    full = np.stack([x % 256 // 2 + 60, y % 256 // 2 + 60, (x + y) // 12], -1).astype(np.uint8)
    padded = np.pad(full, ((0, 1), (0, 1), (0, 0)), "edge")
    half = padded.reshape(501, 2, 752, 2, 3).mean((1, 3)).round().astype(np.uint8)
    exact = views.scaled(Raster(full), 1503, 1001, 0.4)
    reduced = views.scaled(Raster(half, 2), 1503, 1001, 0.4)
    assert exact.shape == reduced.shape == (400, 601, 3)
    difference = np.abs(exact.astype(int) - reduced)[..., 2]
    assert difference.max() <= 1
