// What web_demo.py's page does in the browser, beside Gradio.
"use strict";
(() => {
    // The page writes special characters of a question as HTML's numbers for them, so that they stay text in Markdown.
    const typed = (text) => text.replace(/&#(\d+);/g, (_, number) => String.fromCodePoint(Number(number)));

    // Copy what was typed or answered, not how it is written for display.
    if (navigator.clipboard) { // browsers offer it to https and to this computer's own pages only
        const write = navigator.clipboard.writeText.bind(navigator.clipboard);
        navigator.clipboard.writeText = (text) => write(typed(text));
    }

    // Edit what was typed.
    document.addEventListener("focusin", ({ target }) => {
        if (target instanceof HTMLTextAreaElement && target.closest("#chat") && typed(target.value) !== target.value) {
            target.value = typed(target.value);
            target.dispatchEvent(new Event("input", { bubbles: true }));
        }
    });

    window.chatglm = {
        // Have the browser save a chat as a file.
        save(history) {
            const link = document.createElement("a");
            link.href = URL.createObjectURL(new Blob([JSON.stringify(history, null, 2)], { type: "application/json" }));
            link.download = "chatglm-history.json";
            link.click();
            URL.revokeObjectURL(link.href);
        },
    };
})();
