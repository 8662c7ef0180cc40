"""What people see: the terminal's chat, the Gradio page, the Streamlit page, and what these share."""
