// Swagger UI over the server's own OpenAPI document.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  // no requests to a validator on another host
  validatorUrl: null,
  // a key is kept until the page is closed
  persistAuthorization: false,
});
