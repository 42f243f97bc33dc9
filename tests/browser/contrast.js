// How much every text on a page stands out from what is behind it (WCAG 2.2, "contrast ratio" and "relative luminance").
// Evaluates to how many texts were looked at, and those whose ratio is below 4.5, or below 3 if they are large.
() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const known = new Map();
    function parse(text) {
        if (!known.has(text)) {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = text;
            canvas.fillRect(0, 0, 1, 1);
            const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
            known.set(text, [red, green, blue, alpha / 255]);
        }
        return known.get(text);
    }
    const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
    const remembered = new Map();
    // What is behind an element's text, and how opaque it is together with everything around it.
    function behind(element) {
        if (!element) return { ground: [255, 255, 255, 1], opacity: 1 };
        if (!remembered.has(element)) {
            const around = behind(element.parentElement);
            const style = getComputedStyle(element);
            const ground = over(parse(style.backgroundColor), around.ground);
            remembered.set(element, { ground, opacity: around.opacity * Number(style.opacity) });
        }
        return remembered.get(element);
    }
    function luminance(color) {
        const [r, g, b] = color.slice(0, 3).map((part) => part / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }
    const faint = [];
    let count = 0;
    function check(element, style, text, isDrawn) {
        const { ground: below, opacity } = behind(element);
        const [r, g, b, a] = parse(isDrawn ? style.fill : style.color);
        const [one, other] = [luminance(over([r, g, b, a * opacity], below)), luminance(below)];
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        const size = parseFloat(style.fontSize);
        const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        count += 1;
        if (ratio >= (isLarge ? 3 : 4.5)) return;
        faint.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className}: ${text.slice(0, 40)}`);
    }
    for (const element of document.querySelectorAll("body, body *")) {
        const box = element.getBoundingClientRect();
        if (!element.checkVisibility({ visibilityProperty: true }) || box.width <= 1 || element.disabled) continue;
        const style = getComputedStyle(element);
        const texts = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
        const own = texts.map((node) => node.data).join("").trim();
        if (own || (element.value && !["BUTTON", "LI", "METER"].includes(element.tagName))) {
            check(element, style, own || element.value, element instanceof SVGElement);
        }
        for (const part of ["::before", "::after"]) {
            const drawn = getComputedStyle(element, part);
            if (/"[^"]*[\p{L}\p{N}]/u.test(drawn.content)) check(element, drawn, part + drawn.content);
        }
        if (element.placeholder && !element.value) {
            check(element, getComputedStyle(element, "::placeholder"), element.placeholder);
        }
    }
    return [count, faint];
}
