"""Reports: one self-contained HTML page from one or more logs.

    page       write(): reads logs, puts the file together        page.css, page.js   how it looks and draws
    arm parts text                                                the pieces of HTML, and every fixed sentence
    charts strip bins                                             the numbers that the charts show
    expected   what the theory, or a rotational optimizer, says   verdict             in plain language

Nothing here needs torch: a log is read on any machine with numpy and plotly.
"""
