package frameworks

import (
	"bufio"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"
	echo4 "github.com/labstack/echo/v4"
	"github.com/labstack/echo/v5"
)

// The code that docs/frameworks.md shows is an excerpt of the tests of this folder.

// gated makes a handler of gin's of a Route, or of any other middleware.
func gated(route func(http.Handler) http.Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		writer, passed := c.Writer, false
		route(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			passed = true
			c.Request, c.Writer = r, through{writer, w}
			c.Next()
			c.Writer = writer
			w.WriteHeader(writer.Status()) // which gin sends only later if there is no body
		})).ServeHTTP(writer, c.Request)
		if !passed {
			c.Abort()
		}
	}
}

// through is a writer of gin's whose connection a Route can end.
type through struct {
	gin.ResponseWriter
	w http.ResponseWriter
}

func (t through) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(t.w).Hijack()
}

func (t through) Unwrap() http.ResponseWriter { return t.w }

// answered writes the answer to an error before a Route around it ends.
func answered(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c *echo.Context) error {
		err := next(c)
		if err != nil {
			c.Echo().HTTPErrorHandler(c, err)
		}
		return err
	}
}

// answered4 is answered for version 4.
func answered4(next echo4.HandlerFunc) echo4.HandlerFunc {
	return func(c echo4.Context) error {
		err := next(c)
		if err != nil {
			c.Error(err)
		}
		return err
	}
}
