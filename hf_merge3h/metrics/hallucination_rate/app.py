"""The page of this metric as a Space."""

from hf_merge3h.metrics import page

demo = page.build("hallucination_rate")

if __name__ == "__main__":
    demo.launch()
