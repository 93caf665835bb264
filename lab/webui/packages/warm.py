"""Import what a page needs, so that the image holds its compiled form."""

import gradio as gr

with gr.Blocks(analytics_enabled=False) as blocks:
    box = gr.Textbox()
    gr.Markdown("warm")
    gr.Dropdown(["a"])
    gr.Button("b").click(str, box, box)
blocks.queue().launch(server_port=7860, ssr_mode=False, share=False, prevent_thread_lock=True)
blocks.close()
