/* Browsers start no worker from a page that was opened from the disk. There, the search's worker runs in a hidden frame
   instead: the same script, with the frame's window in place of the worker's. Messages are copied, as between threads:
   the script changes what it is sent. (Over http this file does nothing.) */
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = []; // messages until the script has run
      this.onmessage = this.onerror = this.onmessageerror = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data: structuredClone(data) });
        setTimeout(() => this.tell(event));
      };
      const script = inside.document.createElement("script");
      script.src = url;
      script.onload = () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.deliver(data));
      };
      script.onerror = () => this.tell(new ErrorEvent("error", { message: `${url} cannot be loaded` }));
      inside.document.head.append(script);
    }
    tell(event) {
      this["on" + event.type]?.(event);
      this.dispatchEvent(event);
    }
    deliver(data) {
      const inside = this.frame.contentWindow;
      inside?.dispatchEvent(new inside.MessageEvent("message", { data }));
    }
    postMessage(data) {
      const copy = structuredClone(data);
      if (this.waiting) this.waiting.push(copy);
      else setTimeout(() => this.deliver(copy));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
