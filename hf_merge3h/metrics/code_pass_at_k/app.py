"""The page of this metric as a Space."""

from hf_merge3h.metrics import page

demo = page.build("code_pass_at_k")

if __name__ == "__main__":
    demo.launch()
