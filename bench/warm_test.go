package bench

import (
	"context"

	"github.com/polargate/polargate"
)

func init() {
	warm = func(ctx context.Context, customers *polargate.Customers) error {
		_, err := customers.Warm(ctx)
		return err
	}
}
