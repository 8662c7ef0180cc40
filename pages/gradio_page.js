// What web_demo.py's page does in the browser, beside Gradio: it keeps the chats, and what is pressed and copied.
//
// A chat is {id, title, changed, revision, system, leaf, nodes}. A node is a round {parent, question, answer, notes};
// rounds that follow the same one are versions of each other. What is shown is the path from the first round to `leaf`.
"use strict";
(() => {
    const PREFIX = "chatglm-chat-", MOST_ROUNDS = 200, MOST_CHARACTERS = 1000000, MOST_PDF_BYTES = 5000000;
    const chats = new Map(); // by id: all that this browser keeps
    let texts = {}, chat = fresh(), draft = "", copied = null;
    let follows = true; // whether the newest answer is followed while it grows
    let scrolled = 0; // where the list of answers was scrolled to last
    let turned = null; // the version that was just turned to: {index, by}, by which button
    let running = null; // the round that is being answered: {chat, path, node, before, ended, end}
    let pdf = null; // the one that the server reads: {data, resolve}
    let reading = Promise.resolve(); // ends with it: they are read one after another
    const find = (selector) => document.querySelector(selector);
    const box = () => find("#question textarea");

    // ---- chats ------------------------------------------------------------------------------------------------------

    function fresh() {
        const id = Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join("");
        return { id, title: "", changed: 0, revision: 0, system: "", leaf: -1, nodes: [] };
    }

    /** The indices of the rounds that are shown. */
    function path(of = chat) {
        const found = [];
        for (let index = of.leaf; index >= 0; index = of.nodes[index].parent) found.push(index);
        return found.reverse();
    }

    const rounds = (of = path()) => of.map((index) => [chat.nodes[index].question, chat.nodes[index].answer]);

    /** The indices of the newest rounds that are shown, so many and of so many characters as the server takes. */
    function newest(most) {
        const found = path().slice(-most), size = ([asked, answered]) => asked.length + answered.length;
        let characters = 0;
        rounds(found).forEach((round) => { characters += size(round); });
        while (characters > MOST_CHARACTERS) characters -= size(rounds(found.splice(0, 1))[0]);
        return found;
    }

    const title = (of) => of.title || (of.nodes[0]?.question ?? "").trim().slice(0, 60) || texts.new_chat || "";

    function read(key) {
        try {
            const found = JSON.parse(localStorage.getItem(key));
            const isNode = (node, index) => typeof node.question === "string" && typeof node.answer === "string"
                && node.parent < index && node.parent >= -1;
            if (found && key === PREFIX + found.id && found.nodes.every(isNode)) return found;
        } catch (error) {
            console.warn(key, error.message); // written by something else: neither shown nor touched
        }
        return null;
    }

    /** Keep a chat. If another tab has gone on with the same one, this tab's becomes a chat of its own. */
    function store(of) {
        const kept = read(PREFIX + of.id);
        if (kept && kept.revision !== of.revision) {
            Object.assign(of, { id: fresh().id, title: `${title(of)} (${texts.copy})` });
            if (of === chat) sessionStorage.setItem(PREFIX, of.id);
        }
        of.revision += 1;
        of.changed = Date.now();
        chats.set(of.id, of);
        try {
            localStorage.setItem(PREFIX + of.id, JSON.stringify(of));
        } catch {
            of.revision -= 1;
            say(texts.full);
        }
        drawList();
    }

    async function open(next) {
        await finish();
        chat = next;
        sessionStorage.setItem(PREFIX, chat.id);
        draw();
    }

    async function remove(of) {
        if (!confirm(texts.delete_question.replace("{}", title(of)))) return;
        if (of === chat) await open(fresh());
        chats.delete(of.id);
        localStorage.removeItem(PREFIX + of.id);
        drawList();
    }

    function rename(of) {
        const name = prompt(texts.rename, title(of));
        if (name === null) return;
        of.title = name.trim();
        store(of);
    }

    // ---- answers ----------------------------------------------------------------------------------------------------

    /** Wait until the running answer has been stopped and kept. */
    async function finish() {
        if (!running) return;
        running.stopping = true;
        find("#question .stop-button")?.click();
        await running.ended;
    }

    /** Return what an event sends to the server in place of its inputs; nothing, while another answer is running. */
    async function begin(question, system, ...chosen) {
        if (running?.stopping) await running.ended;
        const isTooLong = question?.length > MOST_CHARACTERS;
        if (isTooLong) say(texts.too_large);
        if (running || isTooLong || question?.trim() === "") return ["", null, "", ...chosen];
        say("");
        follows = true;
        chat.system = system ?? "";
        const seen = document.querySelectorAll("#chat .user-row").length; // an edited round is counted among these
        running = { chat, path: question ? newest(MOST_ROUNDS - 1) : path().slice(-seen), id: Math.random() };
        running.ended = new Promise((resolve) => { running.end = resolve; });
        return [question, { id: running.id, rounds: rounds(running.path) }, system, ...chosen];
    }

    /** Keep what has been said of an answer so far, and note its end. */
    function keep(turn) {
        if (!running || turn?.id !== running.id) return;
        const { chat: of } = running;
        if (running.node === undefined) {
            if (turn.state === "failed") return end();
            const first = running.path[0];
            const before = running.path[turn.at - 1] ?? (first === undefined ? -1 : of.nodes[first].parent);
            Object.assign(running, { node: of.nodes.length, before: of.leaf });
            of.nodes.push({ parent: before, question: turn.question, answer: "" });
            of.leaf = running.node;
        }
        if (turn.state === "failed") {
            of.nodes.pop();
            of.leaf = running.before;
            running.node = undefined;
        } else {
            Object.assign(of.nodes[running.node], { answer: turn.answer, notes: turn.notes });
        }
        store(of);
        if (turn.state !== "running") end();
    }

    function end() {
        running?.end();
        running = null;
        requestAnimationFrame(() => {
            decorate();
            const { activeElement } = document;
            const isFree = activeElement === document.body || activeElement?.closest("#question, #chat");
            if (isFree && !activeElement.closest("#chat textarea")) toBox();
        });
    }

    /** Put the cursor into the box, but on no screen where that would open a keyboard. */
    function toBox() {
        if (!matchMedia("(pointer: coarse)").matches) box()?.focus();
    }

    /** Forget the last round; its question returns to the box. */
    function undo() {
        const last = chat.nodes[chat.leaf];
        if (running || !last) return view();
        chat.leaf = last.parent;
        draft = last.question;
        store(chat);
        toBox();
        return view();
    }

    /** Show another version of a round, with what followed it last. */
    function turnTo(index, by) {
        if (running) return;
        turned = { index, by };
        let leaf = index;
        chat.nodes.forEach((node, later) => { if (node.parent === leaf) leaf = later; });
        chat.leaf = leaf;
        store(chat);
        draw();
    }

    // ---- what is shown ----------------------------------------------------------------------------------------------

    function draw() {
        follows = true;
        find("#show").click();
    }

    document.addEventListener("scroll", ({ target: log }) => {
        if (!(log instanceof Element && log.matches("#chat [role=log]"))) return;
        // the end may have moved on since we scrolled there: only who scrolls back wants to stay
        if (log.scrollHeight - log.scrollTop - log.clientHeight < 60) follows = true;
        else if (log.scrollTop < scrolled) follows = false;
        scrolled = log.scrollTop;
    }, true);

    /** Return what the server is to show: rounds, what stands in the box, and the system prompt. */
    function view() {
        const last = chat.nodes[chat.leaf];
        if (last && !last.answer && !running) { // the page was left before a word of its answer came
            chat.leaf = last.parent;
            draft = draft || last.question;
        }
        const shown = { rounds: rounds(newest(MOST_ROUNDS)), draft, system: chat.system };
        draft = "";
        drawList();
        return [shown];
    }

    function say(text) {
        const place = find("#notice");
        if (place) place.textContent = text;
    }

    function element(name, properties, ...children) {
        const made = Object.assign(document.createElement(name), properties);
        made.append(...children);
        return made;
    }

    const button = (className, text, label, onclick) =>
        element("button", { type: "button", className, textContent: text, title: label, ariaLabel: label, onclick });

    function drawList() {
        const list = find("#chats ul");
        if (!list) return;
        const wanted = find("#chats input").value.trim().toLowerCase();
        const holds = (of) => [of.title, ...of.nodes.flatMap((node) => [node.question, node.answer])]
            .some((text) => text.toLowerCase().includes(wanted));
        const found = [...chats.values()].filter((of) => !wanted || holds(of)).sort((a, b) => b.changed - a.changed);
        const held = list.contains(document.activeElement) && document.activeElement;
        list.replaceChildren(...found.map((of) => {
            const name = button("open", title(of), title(of), () => open(of));
            name.ariaCurrent = of.id === chat.id;
            const ways = [button("rename", "✎", texts.rename, () => rename(of)),
                          button("delete", "×", texts.delete, () => remove(of))];
            return element("li", { id: `list-${of.id}` }, name, ...ways);
        }));
        if (!held) return;
        const same = document.getElementById(held.parentElement.id)?.querySelector(`.${held.className}`);
        (same ?? find("#chats input")).focus();
    }

    const isQuestion = (row) => row.classList.contains("user-row");

    /** By the row of each message, the index of its round. */
    function indices() {
        const rows = [...document.querySelectorAll("#chat .message-row")], shown = path();
        let at = shown.length - rows.filter(isQuestion).length - 1;
        return new Map(rows.map((row) => [row, shown[isQuestion(row) ? ++at : at]]));
    }

    /** What was written in the message of an element. */
    function written(target) {
        const row = target.closest("#chat .message-row") ?? target.closest("#chat .message-buttons").previousElementSibling;
        const node = chat.nodes[indices().get(row)];
        return node && (isQuestion(row) ? node.question : node.answer);
    }

    const name = (target, label) => {
        if (target && target.ariaLabel !== label) Object.assign(target, { ariaLabel: label, title: label });
    };

    /** Put versions and counts below the answers, and names on the box's button. */
    function decorate() {
        const log = find("#chat [role=log]");
        if (!log) return; // an observer's last word, of a page that is being left
        if (follows) log.scrollTop = log.scrollHeight;
        name(find("#question .submit-button"), texts.send);
        name(find("#question .stop-button"), texts.stop);
        const examples = find("#chat .examples"); // buttons, which Gradio calls a list
        if (examples) examples.role = "group";
        indices().forEach((index, row) => {
            const node = chat.nodes[index];
            if (!node || isQuestion(row)) return;
            const versions = chat.nodes.flatMap((each, other) => (each.parent === node.parent ? [other] : []));
            const now = versions.indexOf(index), { notes } = node;
            const counts = notes ? texts.counts.replace("{}", notes.tokens).replace("{}", notes.limit)
                .replace("{}", notes.speed) : "";
            const state = JSON.stringify([chat.id, index, versions, counts]), buttons = row.nextElementSibling;
            const kept = buttons?.querySelector(".notes");
            if (!buttons?.matches(".message-buttons") || kept?.dataset.state === state) return;
            kept?.remove();
            const place = element("div", { className: "notes" });
            place.dataset.state = state;
            if (versions.length > 1) {
                const back = button("back", "‹", texts.version_before, () => turnTo(versions[now - 1], ".back"));
                const on = button("on", "›", texts.version_after, () => turnTo(versions[now + 1], ".on"));
                back.disabled = now === 0;
                on.disabled = now === versions.length - 1;
                place.append(back, `${now + 1}/${versions.length}`, on);
            }
            place.append(counts);
            buttons.append(place);
            if (index !== turned?.index) return;
            (place.querySelector(`${turned.by}:enabled`) ?? place.querySelector(":enabled")).focus();
            turned = null;
        });
    }

    // ---- files ------------------------------------------------------------------------------------------------------

    function download(text, name, type) {
        const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
        link.click();
        URL.revokeObjectURL(link.href);
    }

    const asMarkdown = () => rounds().map(([asked, answered]) => `**${texts.you}**\n\n${asked}\n\n**${texts.model}**\n\n`
        + `${answered}\n`).join("\n---\n\n");

    /** The text of a file, in UTF-8 or Chinese text's older code. */
    async function textOf(file) {
        if (file.size > 4 * MOST_CHARACTERS) throw new Error(texts.too_large);
        const data = await file.arrayBuffer();
        let text;
        try {
            text = new TextDecoder("utf-8", { fatal: true }).decode(data);
        } catch {
            text = new TextDecoder("gb18030").decode(data);
        }
        if (/[\0\ufffd]/.test(text)) throw new Error(texts.no_text);
        if (text.length > MOST_CHARACTERS) throw new Error(texts.too_large);
        return text;
    }

    /** Let a person choose a file. */
    function choose(accept, use) {
        const input = find("#chats input[type=file]");
        Object.assign(input, { accept, value: "", onchange: () => input.files[0] && use(input.files[0]) });
        input.click();
    }

    /** Open a chat from a file: `[[question, answer], …]`, or an object with that as its `history`. */
    async function load(file) {
        try {
            const content = JSON.parse(await textOf(file));
            const history = Array.isArray(content) ? content : content?.history;
            const isRound = (pair) => Array.isArray(pair) && pair.length === 2
                && pair.every((text) => typeof text === "string");
            if (!Array.isArray(history)) throw new Error("");
            const wrong = history.findIndex((pair) => !isRound(pair));
            if (wrong >= 0) throw new Error(texts.wrong_round.replace("{}", wrong + 1));
            const nodes = history.map(([question, answer], index) => ({ parent: index - 1, question, answer }));
            const loaded = { ...fresh(), nodes, leaf: nodes.length - 1 };
            store(loaded);
            await open(loaded);
            say(texts.loaded.replace("{}", history.length));
        } catch (error) {
            say(texts.wrong_file.replace("{}", error.message));
        }
    }

    /** The text of a PDF, which the server reads. */
    async function textOfPdf(file) {
        if (file.size > MOST_PDF_BYTES) throw new Error(texts.large_pdf);
        const reader = new FileReader();
        const loaded = new Promise((resolve) => { reader.onloadend = resolve; });
        reader.readAsDataURL(file);
        await loaded;
        reading = reading.then(() => new Promise((resolve) => {
            pdf = { data: reader.result, resolve };
            find("#pdf").click();
        }));
        const read = await reading;
        if (!read?.text) throw new Error(read?.error ?? texts.no_pdf_text);
        if (read.text.length > MOST_CHARACTERS) throw new Error(texts.too_large);
        return read.text;
    }

    /** Put a file's text into the question. */
    async function attach(file) {
        try {
            const isPdf = await file.slice(0, 5).text() === "%PDF-";
            const text = await (isPdf ? textOfPdf : textOf)(file);
            const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map((found) => found[0].length + 1)));
            write(`${box().value.trimEnd()}\n\n${file.name}\n${fence}\n${text.trimEnd()}\n${fence}\n`.trimStart());
            find("#count").click();
        } catch (error) {
            say(`${file.name}: ${error.message}`);
        }
    }

    function write(text, place = box()) {
        place.value = text;
        place.dispatchEvent(new Event("input", { bubbles: true }));
    }

    // ---- what is pressed and copied ---------------------------------------------------------------------------------

    if (!navigator.clipboard) { // browsers offer it to https and to this computer's own pages only
        const writeText = async (text) => {
            const place = element("textarea", { value: text });
            document.body.append(place);
            place.select();
            document.execCommand("copy");
            place.remove();
        };
        Object.defineProperty(navigator, "clipboard", { value: { writeText } });
    }
    const writeText = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => {
        const exact = copied ?? text; // a message as it was typed or answered, not as it is written for display
        copied = null;
        return writeText(exact);
    };
    document.addEventListener("click", ({ target }) => {
        const pressed = target instanceof Element && target.closest("#chat .message-buttons button");
        copied = pressed ? written(pressed) : null;
    }, true);

    document.addEventListener("focusin", ({ target }) => { // edit what was typed
        if (!(target instanceof HTMLTextAreaElement && target.closest("#chat")) || target.dataset.typed) return;
        target.dataset.typed = true;
        name(target, texts.question);
        write(written(target) ?? target.value, target);
    });

    document.addEventListener("keydown", (event) => {
        if (event.isComposing) return;
        if (event.key === "Escape") {
            const edited = find("#chat textarea")?.closest(".message-row");
            const cancel = edited?.nextElementSibling?.querySelector("button:last-of-type");
            if (running) finish();
            else if (cancel) cancel.click();
            if (running || cancel) toBox();
        } else if (event.key === "ArrowUp" && event.target === box() && !box().value && !running) {
            const last = [...document.querySelectorAll("#chat .user-row + .message-buttons button:last-of-type")].at(-1);
            if (last) {
                event.preventDefault();
                last.click();
                requestAnimationFrame(() => find("#chat textarea")?.focus());
            }
        }
    });

    for (const name of ["dragover", "drop", "paste"]) {
        document.addEventListener(name, (event) => {
            const data = event.dataTransfer ?? event.clipboardData;
            if (!data?.types.includes("Files")) return;
            event.preventDefault();
            for (const file of data.files) attach(file);
        }, true);
    }

    window.addEventListener("storage", ({ key }) => {
        if (!key?.startsWith(PREFIX)) return;
        const id = key.slice(PREFIX.length), other = read(key);
        if (id === chat.id) return; // this tab's own goes on; `store` keeps both
        if (other) chats.set(id, other);
        else chats.delete(id);
        drawList();
    });

    /** Begin: show the chat that this tab had, in the page's language. */
    function start(given) {
        texts = given.texts;
        Object.assign(find("#chats input"), { placeholder: texts.search, ariaLabel: texts.search, oninput: drawList });
        name(find("#conversations .toggle-button"), texts.chats);
        name(find("#settings .toggle-button"), texts.settings);
        name(find("#attach"), texts.add_file);
        name(box(), texts.question);
        const observer = new MutationObserver(() => requestAnimationFrame(decorate));
        for (const place of ["#chat", "#ask"]) observer.observe(find(place), { childList: true, subtree: true });
        new ResizeObserver(decorate).observe(find("#chat")); // it shrinks as the question grows
        drawList();
        decorate();
    }

    for (const key of Object.keys(localStorage).filter((each) => each.startsWith(PREFIX))) {
        const found = read(key);
        if (found) chats.set(found.id, found);
    }
    chat = chats.get(sessionStorage.getItem(PREFIX)) ?? chat;
    sessionStorage.setItem(PREFIX, chat.id);

    window.chatglm = {
        start, view, begin, keep, end, undo,
        again: (...chosen) => begin(chat.nodes[chat.leaf]?.question ?? "", ...chosen),
        stop: () => { if (running) running.stopping = true; },
        renew: () => open(fresh()),
        save: () => download(JSON.stringify(rounds(), null, 2), "chatglm-history.json", "application/json"),
        export: () => download(asMarkdown(), "chatglm-history.md", "text/markdown"),
        load: () => choose(".json", load),
        attach: () => choose("", attach),
        pdf: () => [{ data: pdf.data }],
        pdfRead: (read) => pdf.resolve(read),
    };
})();
