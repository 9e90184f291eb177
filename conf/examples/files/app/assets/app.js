document.body.textContent = "It works.";
