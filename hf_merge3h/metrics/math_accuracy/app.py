"""The page of this metric as a Space."""

from hf_merge3h.metrics import page

demo = page.build("math_accuracy")

if __name__ == "__main__":
    demo.launch()
