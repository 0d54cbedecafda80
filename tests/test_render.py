import numpy as np
import pytest
from PIL import Image

from metagym import render
from metagym.errors import ConfigError

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def blank(height=8, width=8):
    return render.canvas(height, width, "white")


def darkness(image):
    """Covered area in pixels of black drawn on white."""
    return (255.0 - image[..., 0].astype(np.float64)).sum() / 255.0


def test_canvas_has_one_colour_and_the_asked_shape():
    image = render.canvas(3, 5, (1, 2, 3))
    assert image.shape == (3, 5, 3)
    assert image.dtype == np.uint8
    assert (image == (1, 2, 3)).all()


def test_rectangle_on_pixel_borders_is_crisp():
    image = blank()
    render.fill_rect(image, 2, 1, 3, 4, RED)
    expected = blank()
    expected[1:5, 2:5] = RED
    assert np.array_equal(image, expected)


def test_rectangle_between_pixels_mixes_by_covered_area():
    image = blank()
    render.fill_rect(image, 0.5, 0.0, 1.0, 0.5, BLACK)
    assert image[0, 0].tolist() == [191, 191, 191]
    assert image[0, 1].tolist() == [191, 191, 191]
    assert image[0, 2].tolist() == [255, 255, 255]


def test_half_opaque_black_on_white_is_grey():
    image = blank()
    render.fill_rect(image, 0, 0, 8, 8, BLACK, alpha=0.5)
    assert (image == 128).all()


def test_rounded_rectangle_leaves_its_corners_and_fills_its_middle():
    image = blank(20, 20)
    render.fill_rect(image, 0, 0, 20, 20, BLACK, radius=6)
    assert (image[0, 0] == 255).all()
    assert (image[0, 10] == 0).all()
    assert (image[10, 10] == 0).all()


def test_a_radius_of_half_the_side_makes_the_rectangle_a_disc():
    square, disc = blank(12, 12), blank(12, 12)
    render.fill_rect(square, 1, 1, 10, 10, BLACK, radius=99)
    render.fill_disc(disc, 6, 6, 5, BLACK)
    assert np.array_equal(square, disc)


@pytest.mark.parametrize("radius", [3.0, 10.5, 20.25])
def test_disc_covers_the_area_of_a_circle(radius):
    image = blank(50, 50)
    render.fill_disc(image, 25.0, 25.0, radius, BLACK)
    assert darkness(image) == pytest.approx(np.pi * radius**2, rel=0.01)


def test_disc_is_symmetric():
    image = blank(21, 21)
    render.fill_disc(image, 10.5, 10.5, 7.3, BLACK)
    assert np.array_equal(image, image[::-1])
    assert np.array_equal(image, image[:, ::-1])
    assert np.array_equal(image, image.transpose(1, 0, 2))


def test_ring_is_hollow_and_covers_the_area_of_an_annulus():
    image = blank(50, 50)
    render.fill_ring(image, 25, 25, 15, BLACK, thickness=4)
    assert (image[25, 25] == 255).all()
    assert (image[25, 40] == 0).all()
    assert darkness(image) == pytest.approx(np.pi * (17**2 - 13**2), rel=0.01)


def test_horizontal_line_of_even_thickness_is_crisp_between_its_round_ends():
    image = blank(8, 20)
    render.draw_line(image, 4, 4, 16, 4, BLACK, thickness=2)
    assert (image[3:5, 4:16] == 0).all()
    assert (image[:3] == 255).all()
    assert (image[5:] == 255).all()
    assert (image[:, :2] == 255).all()


def test_line_of_no_length_is_a_disc():
    line, disc = blank(), blank()
    render.draw_line(line, 4, 4, 4, 4, BLACK, thickness=5)
    render.fill_disc(disc, 4, 4, 2.5, BLACK)
    assert np.array_equal(line, disc)


def test_thin_lines_fade_instead_of_vanishing():
    image = blank()
    render.draw_line(image, -5, 4.5, 20, 4.5, BLACK, thickness=0.5)
    assert image[4, 4].tolist() == [128, 128, 128]


def test_axis_aligned_polygon_equals_the_rectangle():
    polygon, rect = blank(), blank()
    render.fill_polygon(polygon, [(1, 2), (6, 2), (6, 7), (1, 7)], RED)
    render.fill_rect(rect, 1, 2, 5, 5, RED)
    assert np.array_equal(polygon, rect)


def test_polygon_is_the_same_in_either_direction():
    points = [(1.3, 2.1), (6.9, 1.2), (5.5, 7.7), (3.3, 3.9)]
    clockwise, counter = blank(), blank()
    render.fill_polygon(clockwise, points, BLACK)
    render.fill_polygon(counter, points[::-1], BLACK)
    assert np.array_equal(clockwise, counter)


def test_concave_polygon_covers_the_area_of_the_shoelace_formula():
    points = np.array([(5.0, 5.0), (45.0, 10.0), (25.0, 22.0), (40.0, 44.0), (8.0, 35.0)])
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    image = blank(50, 50)
    render.fill_polygon(image, points, BLACK)
    assert darkness(image) == pytest.approx(area, rel=0.002)


def test_arrow_points_at_its_tip():
    image = blank(20, 30)
    render.draw_arrow(image, 2, 10, 28, 10, BLACK, thickness=2, head=8)
    columns = (image[..., 0] < 128).sum(axis=0)
    assert columns[5] == 2
    assert columns[20] > columns[26]
    assert columns[0] == columns[29] == 0


def test_arrow_shorter_than_its_head_is_a_triangle():
    arrow, triangle = blank(20, 20), blank(20, 20)
    render.draw_arrow(arrow, 4, 10, 12, 10, BLACK, head=50)
    render.fill_polygon(triangle, [(4, 6), (12, 10), (4, 14)], BLACK)
    assert np.array_equal(arrow, triangle)


def test_arrow_of_no_length_draws_nothing():
    image = blank()
    render.draw_arrow(image, 4, 4, 4, 4, BLACK)
    assert np.array_equal(image, blank())


def test_letter_t_is_the_expected_dots():
    image = blank(7, 5)
    render.draw_text(image, "t", 0, 0, 1, BLACK)
    dots = image[..., 0] == 0
    assert dots[0].all()
    assert dots[:, 2].all()
    assert dots.sum() == 11


def test_text_scales_by_whole_pixels():
    small, large = blank(20, 40), blank(40, 80)
    render.draw_text(small, "A7?", 1, 2, 1, BLACK)
    render.draw_text(large, "A7?", 2, 4, 2, BLACK)
    assert np.array_equal(large[::2, ::2], small)
    assert np.array_equal(large[1::2, 1::2], small)


def test_text_fits_exactly_into_its_size():
    width, height = render.text_size("MW\n0", scale=2)
    image = blank(height, width)
    render.draw_text(image, "MW\n0", 0, 0, 2, BLACK)
    dark = image[..., 0] == 0
    assert (width, height) == (22, 32)
    assert dark[0].any()
    assert dark[-1].any()
    assert dark[:, 0].any()
    assert dark[:, -1].any()


def test_every_glyph_of_the_font_differs_from_every_other():
    glyphs = {}
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:-+=/%()?! \u00e9":
        image = blank(7, 5)
        render.draw_text(image, letter, 0, 0, 1, BLACK)
        glyphs[letter] = image.tobytes()
    assert len(set(glyphs.values())) == len(glyphs)


DRAWINGS = {
    "rect": lambda image, x, y: render.fill_rect(image, x, y, 9, 7, BLACK),
    "rounded": lambda image, x, y: render.fill_rect(image, x, y, 9, 7, BLACK, radius=2),
    "disc": lambda image, x, y: render.fill_disc(image, x, y, 5, BLACK),
    "ring": lambda image, x, y: render.fill_ring(image, x, y, 5, BLACK),
    "line": lambda image, x, y: render.draw_line(image, x, y, x + 7, y + 4, BLACK),
    "polygon": lambda image, x, y: render.fill_polygon(image, [(x, y), (x + 9, y + 2), (x + 3, y + 8)], BLACK),
    "arrow": lambda image, x, y: render.draw_arrow(image, x, y, x - 7, y + 9, BLACK),
    "text": lambda image, x, y: render.draw_text(image, "R2", x, y, 1, BLACK),
}


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("corner", [(-4, -3), (13, -3), (-4, 12), (13, 12), (-99, 5), (5, 99), (99, 5), (5, -99)])
def test_drawing_over_the_border_is_drawing_on_a_larger_canvas_and_cropping(name, corner):
    x, y = corner
    small, large = blank(16, 17), blank(256, 257)
    DRAWINGS[name](small, x, y)
    DRAWINGS[name](large, x + 120, y + 120)
    # Coordinates of another size round differently in the last bit.
    assert np.abs(small.astype(int) - large[120:136, 120:137]).max() <= 1


def test_names_of_the_palette_are_colours():
    for name, rgb in render.PALETTE.items():
        assert (render.canvas(1, 1, name) == rgb).all()


def test_frames_stack_with_a_gap_and_padding():
    left, right = render.canvas(2, 3, RED), render.canvas(4, 1, BLACK)
    image = render.hstack([left, right], gap=2, color=WHITE)
    assert image.shape == (4, 6, 3)
    assert (image[:2, :3] == RED).all()
    assert (image[2:, :3] == WHITE).all()
    assert (image[:, 3:5] == WHITE).all()
    assert (image[:, 5] == BLACK).all()
    assert render.vstack([left, right], gap=0).shape == (6, 3, 3)


def test_gif_holds_every_frame_at_the_asked_rate(tmp_path):
    frames = [render.canvas(6, 9, color) for color in (RED, BLACK, WHITE)]
    path = render.write_gif(tmp_path / "film", frames, fps=20)
    assert path == tmp_path / "film.gif"
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as film:
        assert (film.n_frames, film.size, film.info["duration"], film.info["loop"]) == (3, (9, 6), 50, 0)
        film.seek(1)
        assert (np.array(film.convert("RGB")) == BLACK).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: render.canvas(0, 5), "0 x 5"),
        (lambda _: render.canvas(2, 2, "mauve"), "'mauve'"),
        (lambda _: render.fill_polygon(blank(), [(0, 0), (1, 1)], RED), r"\(2, 2\)"),
        (lambda _: render.vstack([]), "got none"),
        (lambda path: render.write_gif(path / "a.gif", []), "one shape"),
        (lambda path: render.write_gif(path / "a.gif", [blank(2, 2), blank(3, 2)]), r"\(3, 2, 3\)"),
        (lambda path: render.write_gif(path / "a.gif", [blank()], fps=0), "fps 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(call, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []
