/* Browsers start no worker from a page that was opened from the disk. There, the search's worker runs in a hidden frame
   instead, which has a thread and messages of its own kind. (Over http this file does nothing.) */
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.onmessage = this.onerror = this.onmessageerror = null;
      const frame = (this.frame = document.createElement("iframe"));
      frame.hidden = true;
      frame.addEventListener("load", () => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.deliver(data));
      });
      document.body.append(frame);
      const inside = frame.contentWindow;
      inside.document.open();
      inside.postMessage = (data) => setTimeout(() => this.answer("message", { data }));
      inside.importScripts = () => {
        throw new Error("no further scripts in a frame");
      };
      const script = String(url).replaceAll("&", "&amp;").replaceAll('"', "&quot;");
      inside.document.write(`<script src="${script}"></` + "script>");
      inside.document.close();
    }
    answer(kind, content) {
      const event = new MessageEvent(kind, content);
      this["on" + kind]?.(event);
      this.dispatchEvent(event);
    }
    deliver(data) {
      const inside = this.frame.contentWindow;
      inside.dispatchEvent(new inside.MessageEvent("message", { data }));
    }
    postMessage(data) {
      if (this.ready) setTimeout(() => this.deliver(data));
      else this.waiting.push(data);
    }
    terminate() {
      this.frame.remove();
    }
  };
}
