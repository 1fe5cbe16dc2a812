"""The look in Gradio's own terms: colours, sizes and system fonts. What it cannot say is in CSS.

One accent, the blue-green of Stentor coeruleus, on cool greys. No font or file is loaded from
anywhere: the names below are fonts of the reader's system.
"""

import gradio as gr

ACCENT = gr.themes.Color(
    name="coeruleus",
    c50="#effaf9",
    c100="#d5f2ef",
    c200="#abe4df",
    c300="#76cfc9",
    c400="#43b1ac",
    c500="#24948f",
    c600="#177874",
    c700="#15605e",
    c800="#144d4c",
    c900="#124040",
    c950="#062627",
)
NEUTRAL = gr.themes.Color(
    name="graphite",
    c50="#f6f8f9",
    c100="#eceff1",
    c200="#dde2e6",
    c300="#c3ccd2",
    c400="#93a0a9",
    c500="#677580",
    c600="#4d5a64",
    c700="#39444d",
    c800="#252d34",
    c900="#191f25",
    c950="#11161a",
)
SANS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

# Page, blocks, inputs and their labels.
SURFACES = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "*neutral_950",
    "body_text_color": "*neutral_900",
    "body_text_color_dark": "*neutral_100",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "background_fill_primary": "white",
    "background_fill_primary_dark": "*neutral_900",
    "background_fill_secondary": "*neutral_50",
    "background_fill_secondary_dark": "*neutral_950",
    "border_color_primary": "*neutral_200",
    "border_color_primary_dark": "*neutral_800",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
    "block_background_fill": "white",
    "block_background_fill_dark": "*neutral_900",
    "block_border_width": "1px",
    "block_shadow": "none",
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "block_label_border_width": "0px",
    "block_label_shadow": "none",
    "block_label_text_color": "*neutral_600",
    "block_label_text_color_dark": "*neutral_400",
    "block_title_text_color": "*neutral_700",
    "block_title_text_color_dark": "*neutral_300",
    "block_title_text_weight": "600",
    "block_info_text_color": "*neutral_500",
    "block_info_text_color_dark": "*neutral_400",
    "input_background_fill": "white",
    "input_background_fill_dark": "*neutral_950",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "*neutral_700",
    "input_border_color_focus": "*primary_500",
    "input_border_color_focus_dark": "*primary_400",
    "input_border_width": "1px",
    "input_shadow_focus": "none",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_500",
    "slider_color": "*primary_600",
    "slider_color_dark": "*primary_400",
    "loader_color": "*primary_500",
}
# Only the primary button carries the accent.
BUTTONS = {
    "button_border_width": "1px",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_500",
    "button_primary_border_color": "*primary_600",
    "button_primary_border_color_dark": "*primary_600",
    "button_primary_text_color": "white",
    "button_primary_text_color_dark": "white",
    "button_secondary_background_fill": "white",
    "button_secondary_background_fill_dark": "*neutral_900",
    "button_secondary_background_fill_hover": "*neutral_100",
    "button_secondary_background_fill_hover_dark": "*neutral_800",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "*neutral_700",
    "button_secondary_text_color": "*neutral_800",
    "button_secondary_text_color_dark": "*neutral_100",
    "button_cancel_background_fill": "white",
    "button_cancel_background_fill_dark": "*neutral_900",
    "button_cancel_background_fill_hover": "*neutral_100",
    "button_cancel_background_fill_hover_dark": "*neutral_800",
    "button_cancel_border_color": "#b4443f",
    "button_cancel_border_color_dark": "#d9776f",
    "button_cancel_text_color": "#9c332f",
    "button_cancel_text_color_dark": "#f0a59f",
    "button_cancel_text_color_hover": "#9c332f",
    "button_cancel_text_color_hover_dark": "#f0a59f",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_dark": "transparent",
}


def make_theme() -> gr.themes.Base:
    """Return the theme for light and dark."""
    theme = gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=NEUTRAL,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    )
    # In one call: a second one puts the page's backgrounds back to Gradio's own.
    theme.set(**SURFACES, **BUTTONS)
    return theme
