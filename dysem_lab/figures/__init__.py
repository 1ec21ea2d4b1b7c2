"""Tables into plotly figures, captions and files."""
