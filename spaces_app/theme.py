"""How the page looks: system fonts (nothing is fetched), colours with contrast in both themes, styles of the views."""

from __future__ import annotations

import gradio as gr

_FONT = ("ui-sans-serif", "system-ui", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Gradio's plain theme with our colours."""
    return gr.themes.Base(
        primary_hue="blue", secondary_hue="slate", neutral_hue="slate", font=_FONT, font_mono=_MONO, radius_size="md"
    ).set(
        button_primary_background_fill="#1d4ed8",
        button_primary_background_fill_dark="#1d4ed8",
        button_primary_background_fill_hover="#1e40af",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


CSS = """
:root { --chart-1: #0b62a4; --chart-2: #b45309; --chart-3: #047857; --chart-4: #8b3fa8;
  --bad: #b42318; --bad-back: #fef3f2; --good: #05603a; --note-back: #eff6ff; --note: #1e3a8a; --line: #cbd5e1;
  --link: #1d4ed8; }
.dark { --chart-1: #6cb6ff; --chart-2: #f5a742; --chart-3: #4fd1a1; --chart-4: #d9a0f0;
  --bad: #fda29b; --bad-back: #3a1512; --good: #6ce9a6; --note-back: #172554; --note: #dbeafe; --line: #475569;
  --link: #93c5fd; }
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container a, .gradio-container .prose a { color: var(--link) !important; text-decoration: underline; }
body:not(.dark) #yaml .cm-line > span { color: #9a3412 !important; }
body:not(.dark) .token:is(.string, .attr-value, .char, .builtin, .inserted) { color: #3f6600 !important; }
body:not(.dark) .token:is(.number, .boolean, .constant, .property, .tag, .deleted) { color: #990055 !important; }
body:not(.dark) .token:is(.function, .class-name) { color: #a3193a !important; }
body:not(.dark) .token:is(.operator, .entity, .url) { color: #6f4c1f !important; background: none !important; }
body:not(.dark) .token:is(.comment, .prolog) { color: #475569 !important; }
body:not(.dark) .token.keyword { color: #00547a !important; }
.part { border-top: 1px solid var(--line); padding-top: 1rem; margin-top: .5rem; }
.part h2 { font-size: 1.35rem; margin: 0; }
.part h2 + p { margin-top: .25rem; }
.banner { background: var(--note-back); color: var(--note); border-radius: 8px; padding: .6rem .9rem; }
.steps { display: flex; flex-wrap: wrap; gap: .35rem .9rem; padding: 0; margin: .5rem 0 0; list-style: none; }
.problems { border-left: 4px solid var(--bad); background: var(--bad-back); border-radius: 4px; padding: .6rem .9rem; }
.problems h3, .problems strong { color: var(--bad); }
.problems h3 { margin: 0 0 .3rem; font-size: 1rem; }
.problems ul { margin: 0; padding-left: 1.1rem; }
.problems li { margin: .25rem 0; overflow-wrap: anywhere; }
.problems pre { margin: .2rem 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
.remedy { display: block; }
.fine { color: var(--good); font-weight: 600; }
.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1rem; margin: .5rem 0; }
.facts dt { font-weight: 600; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 1.2rem; }
.chart { margin: 0; padding: .8rem; border: 1px solid var(--line); border-radius: 8px; min-width: 0; }
.chart h3 { margin: 0 0 .4rem; font-size: 1.02rem; }
.chart svg { width: 100%; height: auto; max-width: 640px; display: block; margin: 0 auto; }
.chart svg text { font-family: ui-sans-serif, system-ui, sans-serif !important; fill: currentColor; }
.chart figcaption { margin: .5rem 0; font-size: .92rem; line-height: 1.45; }
.chart summary, .answers summary { cursor: pointer; font-size: .92rem; padding: .25rem 0; }
.downloads { display: flex; gap: 1.2rem; margin: .4rem 0 0; font-size: .92rem; }
.scroll { overflow: auto; max-height: 20rem; contain: inline-size; }
.scroll table { border-collapse: collapse; font-size: .85rem; min-width: 100%; }
.scroll th, .scroll td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
.scroll th:first-child { text-align: left; white-space: normal; min-width: 6rem; max-width: 14rem; }
.scroll caption { text-align: left; }
#compare .scroll { max-height: none; }
@media (max-width: 640px) { .scroll th:first-child { max-width: 8.5rem; } }
:is(#status, #evaluated, #swept):has(.progress-level) .pending { opacity: 0 !important; }
:is(#status, #evaluated, #swept):not(:has(.progress-level)) .pending { opacity: 1 !important; }
:is(#status, #evaluated, #swept) .wrap:not(:has(.progress-level)) svg { display: none; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 215px), 1fr)); gap: .8rem; }
.answer { border: 1px solid var(--line); border-radius: 8px; padding: .7rem .8rem; min-width: 0; }
.answer.merged { border-width: 2px; border-color: var(--link); }
.answer h3 { margin: 0 0 .3rem; font-size: 1rem; overflow-wrap: anywhere; }
.answer p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .95rem; line-height: 1.45; }
.mark { display: inline-block; border: 1px solid currentColor; border-radius: 4px; padding: 0 .4rem; font-size: .8rem;
  margin-left: .4rem; font-weight: 600; }
#yaml .cm-editor { font-size: .9rem; }
#yaml .cm-content { min-height: 11rem; }
#yaml .cm-scroller { min-height: 13rem !important; max-height: 34rem !important; }
.gradio-container input { text-overflow: ellipsis; }
.gradio-container input[role="combobox"] { padding-right: 1.6rem; }
#files td:has(.label-clear-button) { display: none; }
#files .filename { flex-wrap: wrap; }
#files .stem { white-space: normal !important; overflow-wrap: anywhere; }
#card { overflow: auto; contain: inline-size; overflow-wrap: anywhere; }
#card :is(th, td) { overflow-wrap: normal; }
#card .comment, #card .token.comment { color: inherit !important; }
.dark #yaml .cm-line > span { color: #fdba74 !important; }
#card pre, #card code { white-space: pre-wrap; overflow-wrap: anywhere; }
#card h1 { font-size: 1.25rem; }
#card h2 { font-size: 1.1rem; }
.expert-row { align-items: end; }
footer { gap: 1rem; }
footer > div { display: none !important; }
"""
